"""Models in the format of llama2.c: the tests write the files, as far as the real ones are not there."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.evidence.llama2c import checked, read_model, read_tokenizer, write_teacher
from pipeline.models.tokenizer import Chat, completion_decoder, decode, eos_ids, load_tokenizer, reference_ids, render
from pipeline.runtime.errors import DataError
from tests.llama2c_files import WORDS, tokenizer_file, weights_file


def logits_of_run_c(content: bytes, ids: list[int]) -> np.ndarray:
    """The forward pass of run.c for the sizes of `weights_file`, with rotations of neighbouring numbers."""
    width, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("7i", content[:28])
    tied, vocab = vocab > 0, abs(vocab)
    floats, place = np.frombuffer(content, np.float32, offset=28).astype(np.float64), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        place += int(np.prod(shape))
        return floats[place - int(np.prod(shape)) : place].reshape(shape)

    head, group = width // heads, heads // kv_heads
    table, norm1 = take(vocab, width), take(layers, width)
    wq, wk, wv = take(layers, width, width), take(layers, head * kv_heads, width), take(layers, head * kv_heads, width)
    wo, norm2 = take(layers, width, width), take(layers, width)
    w1, w2, w3 = take(layers, hidden, width), take(layers, width, hidden), take(layers, hidden, width)
    last = take(width)
    take(context, head)
    out = table if tied else take(vocab, width)

    def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight

    def rotated(x: np.ndarray) -> np.ndarray:
        angle = np.arange(len(ids))[:, None, None] / 10000.0 ** (np.arange(0, head, 2) / head)
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = table[ids]
    for layer in range(layers):
        h = normed(x, norm1[layer])
        q = rotated((h @ wq[layer].T).reshape(len(ids), heads, head))
        k, v = ((h @ w[layer].T).reshape(len(ids), kv_heads, head) for w in (wk, wv))
        k, v = rotated(k).repeat(group, 1), v.repeat(group, 1)
        weight = np.einsum("thd,shd->hts", q, k) / np.sqrt(head)
        weight = np.exp(np.where(np.tri(len(ids), dtype=bool), weight, -np.inf))
        mixed = np.einsum("hts,shd->thd", weight / weight.sum(-1, keepdims=True), v).reshape(len(ids), width)
        x = x + mixed @ wo[layer].T
        h = normed(x, norm2[layer])
        gate = h @ w1[layer].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w3[layer].T)) @ w2[layer].T
    return normed(x, last) @ out.T


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_run_c(tied: bool) -> None:
    content, ids = weights_file(tied=tied), [1, 260, 5, 262, 259]
    model = read_model(content).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits, logits_of_run_c(content, ids), atol=1e-4)


def test_neighbours_with_the_highest_score_are_merged_first() -> None:
    tokenizer = read_tokenizer(tokenizer_file(), 259 + len(WORDS))
    ids = tokenizer("abc")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", " a", "b", "c"]  # " a" has a higher score than "ab"
    assert decode(tokenizer, tokenizer("ab é")["input_ids"]) == " ab é"  # bytes for what is no piece
    assert eos_ids(tokenizer) == [1]


def test_one_space_is_between_opening_and_continuation() -> None:
    tokenizer = read_tokenizer(tokenizer_file(), 259 + len(WORDS))
    prompt = Chat(messages=[{"role": "user", "content": "c"}])
    text, ids = render(tokenizer, prompt)
    answer = reference_ids(tokenizer, prompt, "ab")
    assert (text, ids + answer[:-1]) == ("<s>c", tokenizer("c ab")["input_ids"])
    assert (answer[-1], completion_decoder(tokenizer)(answer)) == (1, " ab")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stories260K.bin: expected a file of llama2.c, got nothing"):
        write_teacher(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"tok512.bin: expected SHA-256 037cb335abb2, got"):
        checked("tok512.bin", b"other")


def test_the_real_teacher_knows_children_s_stories(tmp_path: Path) -> None:
    data = Path(os.environ.get("STILLROOM_DATA", Path(__file__).parents[3] / "../shared/data")) / "stories"
    if not data.is_dir():
        pytest.skip(f"no data in {data}; STILLROOM_DATA names another place")
    write_teacher(data, tmp_path / "teacher")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher"), load_tokenizer(tmp_path / "teacher")
    ids = torch.tensor([tokenizer("Once upon a time, there was a little girl named Lily.")["input_ids"]])
    with torch.no_grad():
        assert model(ids, labels=ids).loss < 0.5
