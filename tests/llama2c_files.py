"""Tiny models in the two files of llama2.c."""

import struct
from string import ascii_lowercase

import numpy as np

# The pieces after special tokens and bytes, by falling score.
WORDS = (" a", "ab", *(f" {letter}" for letter in ascii_lowercase[1:]), *ascii_lowercase, " ")


def tokenizer_file() -> bytes:
    """Return pieces with falling scores, as tok512.bin has them; bytes are raw, as in older files."""
    names = ["<unk>", "\n<s>\n", "\n</s>\n", *(chr(byte) for byte in range(256)), *WORDS]
    scores = [0.0] * 259 + [-float(index) for index in range(len(WORDS))]
    pairs = [(name.encode(), score) for name, score in zip(names, scores, strict=True)]
    parts = [struct.pack("fi", score, len(name)) + name for name, score in pairs]
    return struct.pack("i", 7) + b"".join(parts)


def weights_file(*, tied: bool, vocab: int = 259 + len(WORDS)) -> bytes:
    """Return random weights: width 8, two layers, two heads of which one has keys and values."""
    width, hidden, layers, heads, kv_heads, context = 8, 12, 2, 2, 1, 64
    kv_width = width // heads * kv_heads
    per_layer = 2 * width + 2 * width * width + 2 * kv_width * width + 3 * hidden * width
    count = vocab * width + layers * per_layer + width + context * width // heads + (0 if tied else vocab * width)
    sizes = struct.pack("7i", width, hidden, layers, heads, kv_heads, vocab if tied else -vocab, context)
    return sizes + np.random.default_rng(0).normal(0, 0.5, count).astype(np.float32).tobytes()
