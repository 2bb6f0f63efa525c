"""Codecs: they pack scores into small arrays and unpack them. A new codec is a file here and a line in `CODECS`.

* Token ids and counts are decoded exactly, grouped by position; probabilities are within the codec's declared `bounds`.
* Encoding decoded scores gives the same bytes again.
* A segment's manifest contains the codec's name and configuration, so a reader needs nothing else.
"""

from dataclasses import fields
from typing import Any

from pipeline.core.hashing import digest
from pipeline.runtime.errors import StoreError
from pipeline.store.codecs.base import Arrays, Codec, ErrorBounds
from pipeline.store.codecs.rskd import RSKD
from pipeline.store.codecs.sqrt8 import Sqrt8
from pipeline.store.codecs.topk import TopK

__all__ = ["CODECS", "Arrays", "Codec", "ErrorBounds", "build_codec", "config_of", "stored_fingerprint"]

# The codecs for new segments. A name stands for a whole configuration, which the manifest contains.
CODECS: dict[str, Codec] = {
    "sqrt8": Sqrt8(levels=128, floor_nats=20.0),
    "topk": TopK(),
    "rskd": RSKD(levels=128, floor_nats=20.0),
}


def build_codec(name: str, config: dict[str, Any]) -> Codec:
    """Return the codec that a manifest describes.

    Raises:
        StoreError: This version has no codec of this name and configuration.
    """
    if name not in CODECS:
        names = ", ".join(CODECS)
        raise StoreError("codec", expected=f"one of: {names}", got=repr(name), remedy="use the version that wrote it")
    try:
        return type(CODECS[name])(**config)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"codec {name}", expected="its configuration", got=str(error), remedy="use the version that wrote it"
        ) from error


def config_of(codec: Codec) -> dict[str, Any]:
    """Return the configuration as a manifest contains it; `build_codec` accepts it."""
    return {field.name: getattr(codec, field.name) for field in fields(codec)}  # type: ignore[arg-type]


def stored_fingerprint(scorer: str, codec: Codec) -> str:
    """Return the identity of stored scores: scorer and codec. Scores that another codec packed are scored anew."""
    return digest(scorer, codec.name, config_of(codec))
