"""Vega, Vega-Lite and its embedder as one script, taken from the installed vl-convert.

* Nothing is fetched from a network, neither when the page is written nor when it is opened.
* Cost: 900 kB per page, and one second to bundle the script.
"""

from functools import cache

import vl_convert
from markupsafe import Markup

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@cache
def javascript() -> Markup:
    """Return the libraries as one script for a `script` element; it sets `vegaEmbed`."""
    script: str = vl_convert.javascript_bundle(_SNIPPET)
    return Markup(script.replace("</script", "<\\/script"))
