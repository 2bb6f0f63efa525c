"""LoRA adapters (peft): the only module that knows the library and its files.

A student with an adapter is two directories. `work/STUDENT/base` holds the frozen weights, once; every checkpoint is a
directory of peft's two files, megabytes instead of a model, whose configuration says where the base lies, relative to
itself, and as `revision` what it is: its fingerprint. So the bytes of an adapter directory identify base and adapter,
and a checkout may move. `stillroom merge` makes an ordinary model directory of it.

Whoever reads (sampler, evaluation) merges in memory and runs at the speed of a plain model; training alone keeps the
two apart, with adapter weights in float32. Cost: importing peft takes a second or two, and only those who meet an
adapter pay it. Not taken: transformers' own loading of adapters, which reads the base's path from the working
directory.
"""

import copy
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from safetensors.torch import load_file, save_file

from pipeline.runtime.config import AboveZero, Positive, Range
from pipeline.runtime.errors import ModelError, ParameterError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "../../base"  # of a student, from the directory of any of its checkpoints
_MARK = "lora_"  # in the names of an adapter's weights


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraParams:
    """Names as in peft's LoraConfig, which explains them."""

    r: Positive
    """Rank."""
    lora_alpha: AboveZero
    """The adapter counts lora_alpha / r."""
    lora_dropout: Annotated[float, Range(0, 0.99)]
    """Of what goes into the adapter, in training; none with `optimizer.disable_dropout`."""
    use_rslora: bool
    """The adapter counts lora_alpha / sqrt(r) instead."""
    target_modules: Literal["all-linear"] | tuple[str, ...]
    """Every linear layer but the head, or modules by the ends of their names, such as [q_proj, v_proj]."""
    base_dtype: Literal["bfloat16", "float32"]
    """Of the frozen weights, on disk and in training. In bfloat16 their layers compute in it whatever
    optimizer.precision says; sampler and evaluation take their own precision."""


def is_adapter(path: Path) -> bool:
    """True for a directory with an adapter instead of a model."""
    return (path / _CONFIG).is_file()


def base_of(path: Path) -> Path:
    """The directory of the weights: a plain model's own, or what its adapter names."""
    if not is_adapter(path):
        return path
    try:
        base = Path(os.path.normpath(path / json.loads((path / _CONFIG).read_text())["base_model_name_or_path"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            path / _CONFIG,
            expected="an adapter's configuration as peft writes it",
            got=str(error),
            remedy="run `make repro`",
        ) from error
    if not (base / "config.json").is_file():
        raise ModelError(
            path,
            expected=f"its base model in {base}",
            got="none",
            remedy="run `dvc checkout`, or keep the two together; `stillroom merge` makes one directory of them",
        )
    return base


def attach(model: Any, p: LoraParams, *, revision: str, where: str) -> Any:
    """Freeze a model, whose fingerprint is `revision`, and give it a new adapter, which changes nothing yet."""
    from peft import LoraConfig, PeftModel

    targets = p.target_modules if isinstance(p.target_modules, str) else list(p.target_modules)
    config = LoraConfig(
        r=p.r,
        lora_alpha=p.lora_alpha,
        lora_dropout=p.lora_dropout,
        use_rslora=p.use_rslora,
        target_modules=targets,
        base_model_name_or_path=BASE,
        revision=revision,
    )
    try:
        with _quiet():
            made: Any = PeftModel(model, config).get_base_model()
    except ValueError as error:  # peft's word for names that no module bears
        raise _no_target(where, targets, " ".join(str(error).split())[:160]) from error
    if any(has_adapter(one) for one in _embeddings(made)):
        raise _no_target(where, targets, "the head or the embeddings")
    return made


def join(model: Any, path: Path, *, to_train: bool) -> Any:
    """A base model with the adapter in a directory: merged, or apart and trainable."""
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(path))
    config.inference_mode = not to_train
    with _quiet():
        joined = PeftModel(model, config)
        found = set_peft_model_state_dict(joined, load_file(path / _WEIGHTS))
    missing = sorted(name for name in found.missing_keys if _MARK in name)
    if missing or found.unexpected_keys:
        got = f"{len(missing)} missing and {len(found.unexpected_keys)} unknown ones, such as "
        got += min([*missing, *found.unexpected_keys])
        raise ModelError(path, expected="the weights of its base's adapter", got=got, remedy="run `make repro`")
    return joined.get_base_model() if to_train else joined.merge_and_unload()


def save(model: Any, folder: Path) -> None:
    """The adapter of a model as peft's own `save_pretrained` would leave it, equal adapters in equal bytes."""
    from peft import get_peft_model_state_dict

    (config,) = model.peft_config.values()
    config = copy.copy(config)
    config.target_modules = sorted(config.target_modules)  # a set, whose order changes with the process
    config.save_pretrained(str(folder))
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    whole = {f"base_model.model.{name}": value.contiguous() for name, value in weights.items()}
    save_file(whole, folder / _WEIGHTS, metadata={"format": "pt"})


def has_adapter(model: Any) -> bool:
    """True for a model with an adapter apart from its weights."""
    return any(_MARK in name for name, _ in model.named_parameters())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without peft's remarks on what is seen to: transposed weights, a name in transformers, embeddings as targets."""
    with warnings.catch_warnings():
        for said in ("fan_in_fan_out is set to False", ".*is_gradient_checkpointing", ".*tie_word_embeddings=True"):
            warnings.filterwarnings("ignore", message=said)
        yield


def _embeddings(model: Any) -> list[Any]:
    return [one for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None]


def _no_target(where: str, targets: object, got: str) -> ParameterError:
    return ParameterError(
        f"{where}.target_modules",
        expected="all-linear or names of linear layers within the body",
        got=f"{targets} ({got})",
        remedy="mend params.yaml",
    )
