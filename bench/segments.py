"""Headers of segments that exist for a measurement only."""

from pipeline.codecs import CODECS, config_of
from pipeline.sequences import SegmentHeader


def nameless(codec: str, vocab: int) -> SegmentHeader:
    """By nobody, at temperature 1."""
    return SegmentHeader(
        scorer="",
        teacher="",
        tokenizer="",
        template="",
        engine="",
        dtype="",
        vocab_size=vocab,
        temperatures=(1.0,),
        scoring={},
        codec=codec,
        codec_config=config_of(CODECS[codec]),
    )
