"""LoRA adapters: the only module that knows the library peft and its files.

A student with an adapter has two directories. `work/STUDENT/base` holds the frozen weights, once. Every checkpoint is a
directory with the two files of peft, which takes megabytes instead of a whole model. Its configuration names the base
by a path relative to itself, and holds the base's fingerprint as `revision`. So the bytes of an adapter directory
identify base and adapter, and a checkout may move. `stillroom merge` writes an ordinary model directory.

* The sampler and the evaluation merge the adapter in memory and run at the speed of a plain model. Only training keeps
  the two apart, with adapter weights in float32.
* Cost: importing peft takes one or two seconds, paid only by processes that meet an adapter.
"""

import copy
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from safetensors.torch import load_file, save_file

from pipeline.runtime.config import AboveZero, Positive
from pipeline.runtime.errors import ModelError, ParameterError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "../../base"  # a student's base, relative to each of its checkpoints
_PASSED_BY = ("dt_proj",)  # layers of Mamba whose adapters peft takes, and the model's code passes by
_MARK = "lora_"  # part of the name of every adapter weight
# Warnings of peft about what this module handles: transposed weights, a renamed attribute, embeddings as targets.
_EXPECTED_WARNINGS = ("fan_in_fan_out is set to False", ".*is_gradient_checkpointing", ".*tie_word_embeddings=")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraParams:
    """An adapter; the names are those of peft's LoraConfig, which explains them.

    The defaults are the usual ones (TRL's examples: r 16, lora_alpha 32); every linear layer has an adapter, which
    Schulman et al. 2025 ("LoRA Without Regret") need to reach full fine-tuning.
    """

    r: Positive = 16
    """Rank of the adapter's matrices."""
    lora_alpha: AboveZero = 32.0
    """The adapter's output is multiplied by lora_alpha / r."""
    lora_dropout: Annotated[float, Interval(ge=0, le=0.99)] = 0.0
    """Dropout rate of the adapter's input in training; `optimizer.disable_dropout` sets it to 0."""
    use_rslora: bool = False
    """The factor is lora_alpha / sqrt(r) instead."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Every linear layer except the head, or a list of the last parts of module names, such as [q_proj, v_proj].
    Mamba's out_proj and dt_proj never get an adapter."""
    base_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the frozen weights, on disk and in training; with bfloat16 their layers compute in it."""


def is_adapter(path: Path) -> bool:
    """Return whether a directory holds an adapter instead of a model."""
    return (path / _CONFIG).is_file()


def base_of(path: Path) -> Path:
    """Return the directory of the weights: the path itself for a plain model, or the base of an adapter.

    Raises:
        ModelError: When the adapter's configuration is damaged, or the base does not exist.
    """
    if not is_adapter(path):
        return path
    try:
        base = Path(
            os.path.normpath(path / json.loads((path / _CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
        )
    except (ValueError, KeyError, TypeError) as error:
        expected = "an adapter's configuration as peft writes it"
        raise ModelError(path / _CONFIG, expected=expected, got=str(error), remedy="run `make repro`") from error
    if not (base / "config.json").is_file():
        remedy = "run `dvc checkout`, or keep the two together; `stillroom merge` makes one directory of them"
        raise ModelError(path, expected=f"its base model in {base}", got="none", remedy=remedy)
    return base


def attach(model: Any, p: LoraParams, *, revision: str, where: str) -> Any:
    """Freeze a model and give it a new adapter, which does not change the model's outputs yet.

    Args:
        model: The base, which is changed in place.
        p: The adapter's parameters.
        revision: The base's fingerprint, which the adapter records.
        where: The parameter section, for messages.

    Raises:
        ParameterError: When the target modules do not exist or include the head, the embeddings, or a layer whose
            adapter would do nothing.
    """
    from peft import LoraConfig, PeftModel

    targets = p.target_modules if isinstance(p.target_modules, str) else list(p.target_modules)
    options = asdict(p) | {"target_modules": targets, "base_model_name_or_path": BASE, "revision": revision}
    del options["base_dtype"]
    config = LoraConfig(**options)
    unfit = _layers_without_adapter(config, model)
    if isinstance(targets, str):
        config.exclude_modules = unfit or None
    elif named := sorted({target.rpartition(".")[2] for target in targets} & set(unfit)):
        raise _bad_target(where, targets, f"an adapter of {', '.join(named)} does nothing in {model.config.model_type}")
    try:
        with _quiet():
            adapted: Any = PeftModel(model, config).get_base_model()
    except ValueError as error:  # no module has such a name
        raise _bad_target(where, targets, " ".join(str(error).split())[:160]) from error
    embeddings = (adapted.get_input_embeddings(), adapted.get_output_embeddings())
    if any(module is not None and has_adapter(module) for module in embeddings):
        raise _bad_target(where, targets, "the head or the embeddings")
    return adapted


def _layers_without_adapter(config: Any, model: Any) -> list[str]:
    """Return the names of layers whose weights Mamba's code reads itself, past an adapter; peft refuses most."""
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    names = []
    for name in sorted({name.rpartition(".")[2] for name, _ in model.named_modules()}):
        try:
            _check_lora_target_modules_mamba(config, model, name)
            refused = name in _PASSED_BY
        except ValueError:
            refused = True
        if refused:
            names.append(name)
    return names


def load_adapter(model: Any, path: Path, *, to_train: bool) -> Any:
    """Return a base model with the adapter of a directory: merged, or separate and trainable.

    Raises:
        ModelError: When the directory's weights are not those of an adapter to this base.
    """
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(path))
    config.inference_mode = not to_train
    with _quiet():
        adapted = PeftModel(model, config)
        result = set_peft_model_state_dict(adapted, load_file(path / _WEIGHTS))
    missing = sorted(name for name in result.missing_keys if _MARK in name)
    if missing or result.unexpected_keys:
        got = f"{len(missing)} missing and {len(result.unexpected_keys)} unknown ones, such as "
        got += min([*missing, *result.unexpected_keys])
        raise ModelError(path, expected="the weights of its base's adapter", got=got, remedy="run `make repro`")
    if to_train:
        return adapted.get_base_model()
    _untie_targets(adapted.get_base_model())
    with _quiet():
        return adapted.merge_and_unload()


def _untie_targets(model: Any) -> None:
    """Give the head weights of its own where an adapter changes the embedding or the head, but not both alike.

    Otherwise a merge would change the other of the two as well.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embedding.weight is not head.weight or not (has_adapter(embedding) or has_adapter(head)):
        return
    layer = head.get_base_layer() if has_adapter(head) else head
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


def save(model: Any, folder: Path) -> None:
    """Write a model's adapter as peft's `save_pretrained` would; equal adapters give equal bytes."""
    from peft import get_peft_model_state_dict

    (config,) = model.peft_config.values()
    config = copy.copy(config)
    config.target_modules = sorted(config.target_modules)  # a set, whose order differs between processes
    config.save_pretrained(str(folder))
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {f"base_model.model.{name}": value.contiguous() for name, value in weights.items()}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})


def has_adapter(model: Any) -> bool:
    """Return whether a model has an adapter that is not merged."""
    return any(_MARK in name for name, _ in model.named_parameters())


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def _bad_target(where: str, targets: object, got: str) -> ParameterError:
    expected = "all-linear or names of linear layers within the body"
    return ParameterError(f"{where}.target_modules", expected=expected, got=f"{targets} ({got})")
