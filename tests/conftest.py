"""What many tests need: a small tokenizer and small random models, built here in a second, saved as directories."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tests.project import Project, copy_of, make_project

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")

_END_TO_END, _FIRST_RUN = "test_end_to_end.py", "test_the_first_run_executes_every_stage_and_reports"

CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, and those that need what it makes last, so that no worker waits for another."""
    items.sort(key=lambda item: (item.path.name == _END_TO_END) - 2 * (item.name == _FIRST_RUN))


def _tokenizer(
    *, template: str | None = None, extra: str = "<extra>", reverse: bool = False, **special: str | None
) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=reverse)
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<end>", extra)])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **names)


def _t5_tokenizer() -> Any:
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *letters, "\u2581the", "ing"]
    core = Tokenizer(models.Unigram([(piece, -float(len(piece) < 2)) for piece in pieces], unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.add_special_tokens([AddedToken(token, special=True) for token in ("<pad>", "</s>", "<unk>", "<extra_id_0>")])
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@pytest.fixture(scope="session")
def t5_tokenizer() -> Any:
    """Like T5's: pieces with a mark for the space, </s> at the end of a source, <pad> is 0 and starts the decoder."""
    return _t5_tokenizer()


def _t5_dir(path: Path, *, layers: int = 2, seed: int = 0, **changes: Any) -> Path:
    torch.manual_seed(seed)
    tokenizer = _t5_tokenizer()
    settings = {
        "vocab_size": len(tokenizer) + 3,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_heads": 4,
        "num_layers": layers,
        "decoder_start_token_id": 0,
    }
    T5ForConditionalGeneration(T5Config(**(settings | changes))).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_t5_dir() -> Callable[..., Path]:
    """A factory: a random T5 of 32 hidden units with its tokenizer, saved at `path`."""
    return _t5_dir


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """A factory: every byte is a token; <s>, </s>, <end> and `extra` are special; pad is eos; V = 260.

    With `reverse` the ids of the bytes are in the other order.
    """
    return _tokenizer


def _model_dir(path: Path, *, layers: int = 2, seed: int = 0, vocab: int = 260, **changes: Any) -> Path:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 257,
        "initializer_range": 0.5,
    }
    LlamaForCausalLM(LlamaConfig(**(settings | changes))).save_pretrained(path)
    _tokenizer(template=CHAT_TEMPLATE).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_model_dir() -> Callable[..., Path]:
    """A factory: a random Llama of 32 hidden units with the small tokenizer, saved at `path`."""
    return _model_dir


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random teacher of four layers."""
    return _model_dir(tmp_path_factory.mktemp("teacher") / "teacher", layers=4, seed=1)


@pytest.fixture(scope="session")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random student of two layers."""
    return _model_dir(tmp_path_factory.mktemp("student") / "student", layers=2, seed=2)


@pytest.fixture
def small_job(make_model_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory we stand in, with a small job that benchmarks start from."""
    from tests.project import make_small_job

    monkeypatch.chdir(tmp_path)
    make_small_job(tmp_path, make_model_dir)
    return tmp_path


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, make_model_dir: Callable[..., Path]) -> Project:
    """A project in which nothing has run."""
    return make_project(tmp_path_factory.mktemp("fresh") / "project", make_model_dir)


@pytest.fixture(scope="session")
def finished(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project that has run to its end, and what that printed: once for all workers of pytest-xdist."""
    parent = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        parent = parent.parent
    printed = parent / "finished" / "printed.txt"
    with FileLock(parent / "finished.lock"):
        if not printed.exists():
            shutil.rmtree(printed.parent, ignore_errors=True)  # of a worker that failed
            printed.parent.mkdir()
            output = copy_of(fresh, printed.parent).repro()
            printed.write_text(output, encoding="utf-8")
    return Project(printed.parent / "project"), printed.read_text(encoding="utf-8")


@pytest.fixture
def project(finished: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of the finished project."""
    return copy_of(finished[0], tmp_path)
