"""`stillroom init`: params.yaml for the user's own teacher, student and data, checked before anything is written.

Guarantee: every other line of the params.yaml that it starts from stays, comments too, and the result passes
`check_params`. What it decides by looking: the task, splits and columns, by the data; the lengths, by the data's first
cases and the models' positions; chat or plain text, by the tokenizer.
Cost: the tokenizers and configurations of both models and the data; no weights. Memory is arithmetic, not measured.
"""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from pipeline.checkpoints.pretrained import locate
from pipeline.checkpoints.pruning import keep_layers
from pipeline.core.types import Precision
from pipeline.models import language_model as lm
from pipeline.models.architectures import auto_class, stacks
from pipeline.models.context import context
from pipeline.models.tokenizer import Tokenizer, completion_ids, load_tokenizer, render, require_same_tokenizer
from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ModelError
from pipeline.runtime.files import replacing
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.tasks.prompts import PromptParams, find_cases
from pipeline.tasks.templates import render_template
from pipeline.workspace.dataset_detection import choose, find_rows, first_row, question
from pipeline.workspace.presets import PRESETS, require_unchanged
from pipeline.workspace.schedule import follow_params
from pipeline.workspace.validation import check_params

_LOOKED_AT = 200  # cases that tell the lengths
_LONGEST = 1024
_TRAIN_BYTES = 16  # a parameter: weight, gradient and two moments in float32
_COMMENTS = {
    "seed": "Every knob of the pipeline; nothing has a default in the code. docs/parameters.md says more.",
    "task": "What is learnt; docs/parameters.md has every task's settings.",
    "teacher": "Hub name, local directory, .gguf file, or package:MODULE/FILE.gguf.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """What the command line names."""

    teacher: str
    student: str
    data: str | None
    task: str | None
    config: str | None
    train_split: str | None
    heldout_split: str | None
    columns: Mapping[str, str]  # field of task.settings to column


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedParams:
    """What to change in params.yaml, and what was found out."""

    changes: dict[tuple[str, ...], Any]
    comments: dict[str, str]
    told: list[str]


def propose_params(
    wish: InitRequest, document: Mapping[str, Any], ready: Mapping[str, Mapping[str, Any]]
) -> ProposedParams:
    """Look at models and data; a UserError says what does not fit.

    `document` is the params.yaml to start from, `ready` the section `task` of tasks that need no data.
    """
    tokenizer = _tokenizer(wish.teacher, "--teacher")
    cut = wish.student == "teacher"
    if not cut:
        require_same_tokenizer(tokenizer, _tokenizer(wish.student, "--student"), (wish.teacher, wish.student))
    teacher = _skeleton(wish.teacher, "--teacher")
    layers = _half(teacher) if cut else None
    student = _cut(teacher, layers) if layers else _skeleton(wish.student, "--student")
    task, told = _task(wish, tokenizer, ready)
    prompt, completion = _lengths(task, tokenizer, [teacher, student])
    told += [
        f"{name}: {one.num_parameters():,} parameters" for name, one in (("teacher", teacher), ("student", student))
    ]
    told += [f"prompts of at most {prompt} tokens, completions of {completion}, by the first {_LOOKED_AT} cases"]
    sizes = {"teacher": teacher.num_parameters(), "student": student.num_parameters()}
    told += _memory(sizes, document["scoring"]["precision"], document["evaluation"]["precision"])
    told += (
        ["the student is half of the teacher; `python -m bench.end_to_end.layers` finds better layers"] if cut else []
    )
    start = {"model": wish.student, "revision": None, "layers": layers, "config": None, "lora": None}
    changes: dict[tuple[str, ...], Any] = {
        ("teacher", "model"): wish.teacher,
        ("teacher", "revision"): None,
        ("students",): ["student"],
        ("student",): {"student": start},
        ("sft",): {name: one for name, one in document["sft"].items() if name == "teacher"},
        **{("task", key): value for key, value in task.items()},
        ("task", "max_prompt_tokens"): prompt,
        ("rollout", "sampling", "max_new_tokens"): completion,
        ("evaluation", "max_new_tokens"): completion,
    }
    return ProposedParams(changes=changes, comments=_COMMENTS, told=told)


def _tokenizer(model: str, where: str) -> Tokenizer:
    place, options = locate(model, where)
    return load_tokenizer(place, **options)


def _skeleton(model: str, where: str) -> Any:
    """The model without its weights, from its configuration alone."""
    place, options = locate(model, where)
    try:
        config = AutoConfig.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        got = " ".join(str(error).split())[:160]
        raise ModelError(where, expected="a model", got=got, remedy="check the name and the network") from error
    with torch.device("meta"):
        return auto_class(config).from_config(config)


def _half(teacher: Any) -> list[int] | dict[str, list[int]]:
    """Half of the layers of every stack, the first and the last among them."""
    sides = {side: _spread(_depth(stack)) for side, stack in stacks(teacher).items()}
    return sides if len(sides) > 1 else sides["decoder"]


def _depth(stack: Any) -> int:
    return max(len(one) for one in stack.children() if isinstance(one, torch.nn.ModuleList))


def _spread(layers: int) -> list[int]:
    count = max(2, math.ceil(layers / 2))
    return sorted({round(index * (layers - 1) / (count - 1)) for index in range(count)})


def _cut(teacher: Any, layers: list[int] | dict[str, list[int]]) -> Any:
    chosen = tuple(layers) if isinstance(layers, list) else {side: tuple(one) for side, one in layers.items()}
    return keep_layers(copy.deepcopy(teacher), chosen, where="--student")


def _task(
    wish: InitRequest, tokenizer: Tokenizer, ready: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], list[str]]:
    """The section `task`, and what was seen."""
    chat = bool(tokenizer.chat_template)
    asked = f"asked {'in the chat template' if chat else 'as plain text: no chat template'}"
    if wish.data is None:
        if wish.task is None or wish.task not in ready:
            remedy = f"add --data, or --task with one of: {', '.join(ready) or 'none, in this directory'}"
            raise DataError("--data", expected="a data set", got="none", remedy=remedy)
        found = dict(ready[wish.task])
        return found | {"template": found["template"] | {"chat": chat}}, [f"task {wish.task}", asked]
    rows = find_rows(wish.data, wish.config, wish.train_split, wish.heldout_split)
    name, columns = choose(wish.data, wish.task, wish.columns, first_row(rows, wish.columns.values()))
    text = None if chat and columns.get("messages_column") else question(name, columns)
    template = {"text": text if chat or text is None else f"{text}\n\n", "chat": chat, "system": None}
    shown = ", ".join(f"{key}={value}" for key, value in columns.items() if value)
    told = [f"task {name}: {shown}", f"splits: {rows['train_split']}, held out {rows['heldout_split']}", asked]
    found = {"name": name, "train": 2000, "heldout": 200, "max_prompt_tokens": _LONGEST, "template": template}
    return found | {"settings": rows | columns}, told


def _lengths(task: Mapping[str, Any], tokenizer: Tokenizer, models: Sequence[Any]) -> tuple[int, int]:
    """Tokens that 95 % of the first prompts and references stay under, in steps of 16, as far as the models go."""
    p = parse(PromptParams, dict(task), where="task")
    cases = list(islice(find_cases(p), _LOOKED_AT))
    prompt = _most([len(render(tokenizer, render_template(p.template, one))[1]) for one in cases])
    answer = _most([len(completion_ids(tokenizer, one.references[0])) for one in cases])
    for room in (context(one.config) for one in models):
        answer = min(answer, room.limit // 2)
        prompt = min(prompt, room.prompt_limit(answer))
    return prompt, answer


def _most(lengths: Sequence[int]) -> int:
    covered = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
    return min(_LONGEST, 16 * math.ceil(covered / 16))


def _memory(sizes: Mapping[str, int], scoring: Precision, evaluation: Precision) -> list[str]:
    """Weights alone, against what the device has; activations come on top."""
    needed = {
        "scoring": sizes["teacher"] * lm.resolve_dtype(scoring).itemsize,
        "training": sizes["student"] * _TRAIN_BYTES,
        "evaluation": sum(sizes.values()) * lm.resolve_dtype(evaluation).itemsize,
    }
    has = _device_bytes()
    shown = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in needed.items())
    told = [f"memory for weights: {shown} (training with gradients and optimizer); the device has {has / 1e9:.1f} GB"]
    told += ["warning: the student is larger than its teacher"] if sizes["student"] > sizes["teacher"] else []
    return told + [f"warning: {name} does not fit the device" for name, size in needed.items() if size > has]


def _device_bytes() -> int:
    if lm.device().type == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_NEED_NO_DATA = ("docstrings", "arithmetic-tiny")  # presets whose task has its data with it


def write_params(wish: InitRequest, out: Path, *, force: bool) -> list[str]:
    """Write `out` from params.yaml, and rounds.yaml where it is params.yaml itself; returns what was found out."""
    if not force:
        _spare(out)
    ready = {
        read_yaml(one)["task"]["name"]: read_yaml(one)["task"] for one in map(_preset, _NEED_NO_DATA) if one.exists()
    }
    beginning = propose_params(wish, read_yaml(LAYOUT.params), ready)
    text = edit_yaml(LAYOUT.params, beginning.changes, beginning.comments)
    with replacing(out) as temporary:
        temporary.write_text(text)
        check_params(temporary)
    if out == LAYOUT.params:
        follow_params()
    return beginning.told


def _spare(out: Path) -> None:
    """A DataError where something would be lost: another file, or a params.yaml that is no preset."""
    if out == LAYOUT.params:
        require_unchanged()
    elif out.exists():
        raise DataError(out, expected="no file", got="one", remedy="add --force to replace it, or --out another")


def _preset(name: str) -> Path:
    return PRESETS / f"{name}.yaml"
