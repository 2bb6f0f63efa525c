"""How scores become small arrays and come back. A new codec is a file in this directory and a line in `CODECS`.

Guarantee: token ids and counts come back exactly, grouped by position; probabilities within the codec's declared
`bounds`; encoding what was decoded gives the same bytes. A segment names its codec and carries its configuration, so a
reader re-types nothing.
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

CODECS: dict[str, Codec] = {
    "sqrt8": Sqrt8(levels=128, floor_nats=20.0),
    "topk": TopK(),
    "rskd": RSKD(levels=128, floor_nats=20.0),
}
"""What a new segment may be written with. A name stands for a whole configuration, which the manifest spells out."""


def build_codec(name: str, config: dict[str, Any]) -> Codec:
    """The codec that a manifest describes; a StoreError when this version does not know it."""
    if name not in CODECS:
        known = ", ".join(CODECS)
        raise StoreError("codec", expected=f"one of: {known}", got=repr(name), remedy="use the version that wrote it")
    try:
        return type(CODECS[name])(**config)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"codec {name}", expected="its configuration", got=str(error), remedy="use the version that wrote it"
        ) from error


def config_of(codec: Codec) -> dict[str, Any]:
    """The configuration as a manifest stores it; `build_codec` takes it back."""
    return {field.name: getattr(codec, field.name) for field in fields(codec)}  # type: ignore[arg-type]


def stored_fingerprint(scorer: str, codec: Codec) -> str:
    """Identity of scores as they are stored: who scored, and which codec rounded. Another codec scores again."""
    return digest(scorer, codec.name, config_of(codec))
