"""Read the small files beside the weights of a model from outside: from its directory, or from the hub."""

import re
from pathlib import Path

from transformers.utils import cached_file


def fetch(source: str, name: str, revision: str | None) -> Path | None:
    """Return one file of a local directory or of a hub model, None where there is none."""
    try:
        file = cached_file(source, name, revision=revision)
    except (OSError, ValueError):
        return None
    return Path(file) if file else None


def card_field(source: str, field: str, revision: str | None) -> str | None:
    """Return a field of the front matter of a model's card, the first value of a list; None where it is not there."""
    file = fetch(source, "README.md", revision)
    if file is None:
        return None
    value = rf"""{field}:[ ]*\n?(?:[ ]*-[ ]*)?["']?([\w.+/-]+)["']?[ ]*\n"""
    match = re.match(rf"---\n(?:(?!---).*\n)*?{value}", file.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else None
