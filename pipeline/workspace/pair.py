"""The teacher and the student that `stillroom init` is given: what they are, before the student is made.

A teacher that fits into memory is read once, weights included, because its completions are measured afterwards. Of any
other model only the tokenizer and the configuration are read.
"""

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from transformers import AutoConfig

from pipeline.checkpoints.layer_fields import resized_fields
from pipeline.checkpoints.pretrained import load_pretrained, locate, locate_weights
from pipeline.checkpoints.pruning import keep_layers, layer_lists
from pipeline.checkpoints.quantised import check_numbers, plan_dequantising
from pipeline.checkpoints.text_models import text_model
from pipeline.models.architectures import auto_class, stacks
from pipeline.models.language_model import device, resolve_dtype
from pipeline.models.lora import LoraParams
from pipeline.models.tokenizer import Tokenizer, load_tokenizer, require_same_tokenizer
from pipeline.runtime.errors import ModelError, ParameterError

Kind: TypeAlias = Literal["ready-made", "cut", "fresh"]
_UNPACKED = 10  # bytes in memory per byte of a GGUF file with 4 bits per weight
_READING_BYTES = 5  # bytes per weight while a model is read: float32 and a part of it once more


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A teacher and a student."""

    tokenizer: Tokenizer
    teacher: Any  # with weights if `readable`, else on the meta device
    readable: bool
    student: Any  # on the meta device
    kind: Kind
    start: dict[str, Any]  # the student's section of params.yaml

    @property
    def lora(self) -> bool:
        """Whether the student is an adapter."""
        return "lora" in self.start

    @property
    def trained(self) -> int:
        """The number of weights that are trained."""
        return _adapter_size(self.student) if self.lora else int(self.student.num_parameters())


def open_pair(teacher: str, student: str, *, fresh: bool, lora: bool, read: bool) -> Pair:
    """Look at a teacher and a student.

    Args:
        teacher: The model.
        student: A model, or `teacher`.
        fresh: The student begins with random weights.
        lora: The student is an adapter.
        read: Whether the teacher's weights are needed.

    Raises:
        ModelError: A model cannot be read, or the tokenizers differ.
        ParameterError: The student cannot be both random and an adapter.
    """
    if fresh and lora:
        remedy = "leave one of them out; an adapter of random weights learns little"
        raise ParameterError("--fresh", expected="no --lora beside it", got="both", remedy=remedy)
    tokenizer, taught, shell = _teacher(teacher, read=read)
    start: dict[str, Any] = {"model": student}
    made, kind = shell, "ready-made"
    if student != "teacher":
        other, made = _without_weights(student, "--student")
        require_same_tokenizer(tokenizer, other, (teacher, student))
    if fresh:
        kind, start["config"] = "fresh", _half_depth(made.config) if student == "teacher" else {}
        made = _sized(made.config, start["config"])
    elif student == "teacher":
        kind, start["layers"] = "cut", half_layers(shell)
        made = keep_layers(copy.deepcopy(shell), start["layers"], where="--student")
    return Pair(
        tokenizer=tokenizer,
        teacher=taught,
        readable=taught is not shell,
        student=made,
        kind=kind,  # type: ignore[arg-type]
        start=start | ({"lora": {}} if lora else {}),
    )


def _teacher(name: str, *, read: bool) -> tuple[Tokenizer, Any, Any]:
    """Return the tokenizer, the model, and the model without weights; both are the same if it is not to be read."""
    source, options = locate(name, "--teacher")
    # The configuration of a GGUF file takes as long to read as its weights, so both are read at once.
    if "gguf_file" in options:
        fits = _UNPACKED * (Path(source) / options["gguf_file"]).stat().st_size < device_bytes()
    else:
        tokenizer, shell = _without_weights(name, "--teacher")
        fits = _READING_BYTES * shell.num_parameters() < device_bytes()
    if read and fits:
        model, tokenizer = load_pretrained(name, None, dtype=resolve_dtype("auto"), where="--teacher")
        return tokenizer, model, _shell(model.config)
    tokenizer, shell = _without_weights(name, "--teacher")
    return tokenizer, shell, shell


def load_student(pair: Pair) -> Any:
    """Return a ready-made student with its weights, or None if it does not fit into memory beside the teacher."""
    if _READING_BYTES * (pair.teacher.num_parameters() + pair.student.num_parameters()) > device_bytes():
        return None
    return load_pretrained(pair.start["model"], None, dtype=resolve_dtype("auto"), where="--student")[0]


def _shell(config: Any) -> Any:
    """Return a model without weights."""
    with torch.device("meta"):
        return text_model(auto_class(config).from_config(config))


def device_bytes() -> int:
    """Return the memory of the device that models run on."""
    if device().type == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _without_weights(model: str, where: str) -> tuple[Tokenizer, Any]:
    """Return the tokenizer of a model, and the model without its weights, made from its configuration alone."""
    path, options = locate_weights(model, where)
    tokenizer = load_tokenizer(path, **options)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **options)
        if not options:
            plan_dequantising(config, where=where, model=model, origin=None)
            if Path(path).is_dir():  # what is on the hub is not fetched
                check_numbers(path, config, revision=None, where=where, model=model, origin=None)
        return tokenizer, _shell(config)
    except ModelError:
        raise
    except Exception as error:  # transformers raises exceptions of any type
        got = " ".join(str(error).split())[:160]
        got = got if isinstance(error, OSError | ValueError | ImportError | RuntimeError) else repr(error)[:160]
        raise ModelError(where, expected="a model", got=got, remedy="check the name and the network") from error


def half_layers(model: Any) -> Any:
    """Return half of the layers of every stack, with the first and the last layer."""
    layers = {side: _spread(max(map(len, layer_lists(stack).values()))) for side, stack in stacks(model).items()}
    return layers if len(layers) > 1 else next(iter(layers.values()))


def _spread(layers: int) -> tuple[int, ...]:
    count = min(layers, max(2, math.ceil(layers / 2)))
    return tuple(sorted({round(index * (layers - 1) / max(1, count - 1)) for index in range(count)}))


def _half_depth(config: Any) -> dict[str, int]:
    """Return the fields of a configuration that count layers, halved."""
    fields = {"num_hidden_layers", *getattr(config, "attribute_map", {}).values(), "num_decoder_layers"}
    counts = {"num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"} | {"num_hidden_layers"}
    record = config.to_dict()
    return {
        name: max(1, math.ceil(record[name] / 2))
        for name in sorted((fields | counts) & record.keys())
        if "layer" in name and isinstance(record[name], int)
    }


def _sized(config: Any, changes: dict[str, Any]) -> Any:
    """Return a model without weights from a configuration with other fields."""
    with torch.device("meta"):
        changed = type(config)(**resized_fields(config, changes))
        return auto_class(changed).from_config(changed)


def _adapter_size(model: Any) -> int:
    """Return the number of weights of an adapter with the usual rank to every linear layer but the head."""
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if m is not head and getattr(m, "weight", None) is not None]
    shapes = [m.weight.shape for m in linear if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"]
    return LoraParams().r * sum(sum(shape) for shape in shapes)
