"""Vega, Vega-Lite and its embedder as one script, out of the installed vl-convert: nothing is fetched or committed.

Cost: 900 kB a page and a second to bundle. Not taken: a script tag with the address of a CDN, which neither a train
nor a mail program loads.
"""

from functools import cache

import vl_convert

_SNIPPET = "window.vegaEmbed = vegaEmbed;"

_DVC_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>stillroom: plots</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem } table { border-spacing: 15px }</style>
<script>VEGA</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


@cache
def javascript() -> str:
    """The libraries as one script; it sets `vegaEmbed`."""
    script: str = vl_convert.javascript_bundle(_SNIPPET)
    return script.replace("</script", "<\\/script")


def dvc_template() -> str:
    """What `dvc plots show` fills in: it offers script tags of a CDN as {scripts}, and this page takes none of them."""
    return _DVC_PAGE.replace("VEGA", javascript())
