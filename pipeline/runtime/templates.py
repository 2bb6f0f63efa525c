"""Fill in the Jinja2 templates of plain texts for people, such as model cards and the output of commands.

Only the page of the report is HTML; `pipeline.report.page.html` fills in its templates and escapes what it inserts.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.runtime.display import number_text, short
from pipeline.runtime.markdown import markdown_table


def fill_template(template: Path, **values: Any) -> str:
    """Return the text of a template with these values, without escapes and without line breaks at the end.

    A block tag in a line of its own leaves no blank line. The filters `json`, `number`, `short` and `table` are those
    of the package `pipeline.runtime`; JSON has sorted keys.
    """
    loader = FileSystemLoader(template.parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "json": lambda value, indent=None: json.dumps(value, indent=indent, sort_keys=True),
        "number": number_text,
        "short": short,
        "table": markdown_table,
    }
    return environment.get_template(template.name).render(values).rstrip("\n")
