"""Write params.yaml for the user's own teacher, student and data: the command `stillroom init`.

* Every other line of params.yaml stays, comments included, and the result passes `check_params`.
* It infers the task, the splits and the columns from the data; the lengths from the first cases and from the context
  limits of the models; and whether to use a chat template from the tokenizer.
* It loads the data, the tokenizers and the configurations of both models, and no weights. Memory is calculated.
"""

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import AutoConfig

from pipeline.checkpoints.pretrained import locate
from pipeline.checkpoints.pruning import keep_layers
from pipeline.core.types import Precision
from pipeline.models import language_model as lm
from pipeline.models.architectures import auto_class, stacks
from pipeline.models.context import context
from pipeline.models.tokenizer import Tokenizer, completion_ids, load_tokenizer, render, require_same_tokenizer
from pipeline.runtime.atomic import replacing
from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ModelError
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import edit_yaml, overlay_yaml, parse_yaml, read_yaml
from pipeline.tasks.prompts import PromptParams, find_cases
from pipeline.tasks.templates import render_template
from pipeline.workspace.dataset_detection import choose, find_rows, first_rows, question
from pipeline.workspace.presets import DEFAULT, PRESETS, require_unchanged
from pipeline.workspace.schedule import follow_params
from pipeline.workspace.validation import check_params

_INSPECTED_CASES = 200  # The number of cases that decide the lengths
_MAX_LENGTH = 1024  # The largest length of prompts and of completions that is proposed, in tokens
_BYTES_PER_TRAINED_PARAMETER = 16  # A weight, its gradient and two moments in float32
_OWN_DATA = ("docstrings", "arithmetic-tiny")  # Presets whose task needs no data of the user
_TOP = """# yaml-language-server: $schema=schemas/params.schema.json
# Every parameter of the pipeline; no parameter has a default in the code. docs/parameters.md explains each of them.
"""

Layers: TypeAlias = tuple[int, ...] | dict[str, tuple[int, ...]]
Changes: TypeAlias = dict[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """The options of the command line."""

    teacher: str
    student: str  # A model, or `teacher`: half of the teacher's layers
    data: str | None
    task: str | None
    config: str | None
    train_split: str | None
    heldout_split: str | None
    columns: Mapping[str, str]  # The column of each field of `task.settings` that the user names


def write_params(request: InitRequest, out: Path, *, force: bool) -> list[str]:
    """Write parameters that start from params.yaml to `out`, and rounds.yaml if `out` is params.yaml itself.

    Returns:
        What was inferred, line by line.

    Raises:
        UserError: The models or the data do not fit, or `out` would lose edits and `force` is false.
    """
    if not force and out == LAYOUT.params:
        require_unchanged()
    elif not force and out.exists():
        raise DataError(out, expected="no file", got="one", remedy="add --force to replace it, or --out another")
    changes, findings = propose_params(request, read_yaml(LAYOUT.params))
    with replacing(out) as temporary:
        temporary.write_text(edit_yaml(LAYOUT.params, changes, top=_TOP), encoding="utf-8")
        check_params(temporary)
    if out == LAYOUT.params:
        follow_params()
    return findings


def propose_params(request: InitRequest, document: Mapping[str, Any]) -> tuple[Changes, list[str]]:
    """Inspect the models and the data.

    Args:
        request: The options of the command line.
        document: The parameters to start from.

    Returns:
        The parameters to change, and what was inferred, line by line.

    Raises:
        UserError: Something does not fit.
    """
    tokenizer, teacher = _without_weights(request.teacher, "--teacher")
    if request.student == "teacher":
        layers = _half(teacher)
        student = keep_layers(copy.deepcopy(teacher), layers, where="--student")
    else:
        other, student = _without_weights(request.student, "--student")
        require_same_tokenizer(tokenizer, other, (request.teacher, request.student))
        layers = None
    task, findings = _task(request, tokenizer)
    prompt, completion = _lengths(task, tokenizer, [teacher, student])
    sizes = {"teacher": teacher.num_parameters(), "student": student.num_parameters()}
    findings += [f"{name}: {size:,} parameters" for name, size in sizes.items()]
    lengths = f"prompts of at most {prompt} tokens, completions of at most {completion}"
    findings += [f"{lengths}, by the first {_INSPECTED_CASES} cases"]
    findings += _memory(sizes, document["scoring"]["precision"], document["evaluation"]["precision"])
    if layers:
        findings += ["the student is half of the teacher; `python -m bench.end_to_end.layers` finds better layers"]
    start = {"model": request.student, "revision": None, "layers": layers, "config": None, "lora": None}
    changes: Changes = {
        ("teacher", "model"): request.teacher,
        ("teacher", "revision"): None,
        ("students",): ["student"],
        ("student",): {"student": start},
        ("sft",): {name: tuning for name, tuning in document["sft"].items() if name == "teacher"},
        **{("task", key): value for key, value in task.items()},
        ("task", "max_prompt_tokens"): prompt,
        ("rollout", "sampling", "max_new_tokens"): completion,
        ("evaluation", "max_new_tokens"): completion,
    }
    return changes, findings


def _without_weights(model: str, where: str) -> tuple[Tokenizer, Any]:
    """Return the tokenizer of a model, and the model without its weights, made from its configuration alone."""
    path, options = locate(model, where)
    tokenizer = load_tokenizer(path, **options)
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        got = " ".join(str(error).split())[:160]
        raise ModelError(where, expected="a model", got=got, remedy="check the name and the network") from error
    with torch.device("meta"):
        return tokenizer, auto_class(config).from_config(config)


def _half(teacher: Any) -> Layers:
    """Return half of the layers of every stack, with the first and the last layer."""
    layers = {}
    for side, stack in stacks(teacher).items():
        layers[side] = _spread(max(len(child) for child in stack.children() if isinstance(child, torch.nn.ModuleList)))
    return layers if len(layers) > 1 else layers["decoder"]


def _spread(layers: int) -> tuple[int, ...]:
    count = max(2, math.ceil(layers / 2))
    return tuple(sorted({round(index * (layers - 1) / (count - 1)) for index in range(count)}))


def _task(request: InitRequest, tokenizer: Tokenizer) -> tuple[dict[str, Any], list[str]]:
    """Return the section `task`, and what was inferred, line by line."""
    chat = bool(tokenizer.chat_template)
    prompts = f"prompts {'in the chat template' if chat else 'as plain text: the tokenizer has no chat template'}"
    if request.data is None:
        task = _preset_task(request.task)
        return task | {"template": task["template"] | {"chat": chat}}, [f"task {request.task}", prompts]
    rows = find_rows(request.data, request.config, request.train_split, request.heldout_split)
    first = first_rows(rows, request.columns.values())
    name, columns = choose(request.data, request.task, request.columns, first)
    text = None if chat and columns.get("messages_column") else question(name, columns)
    template: dict[str, Any] = {
        "text": text if chat or text is None else f"{text}\n\n",
        "chat": chat,
        "system": None,
        "variables": {},
    }
    task = {"name": name, "train": 2000, "heldout": 200, "max_prompt_tokens": _MAX_LENGTH, "template": template}
    task_line = f"task {name}: {', '.join(f'{field}={column}' for field, column in columns.items() if column)}"
    splits_line = f"splits: {rows['train_split']}, held out {rows['heldout_split']}"
    return task | {"settings": rows | columns}, [task_line, splits_line, prompts]


def _preset_task(name: str | None) -> dict[str, Any]:
    """Return the section `task` of the preset of a task that needs no data of the user."""
    presets = [path for preset in _OWN_DATA if (path := PRESETS / f"{preset}.yaml").exists()]
    sections = [parse_yaml(path, overlay_yaml(DEFAULT, path).encode())["task"] for path in presets]
    tasks = {section["name"]: section for section in sections}
    if name is None or name not in tasks:
        remedy = f"add --data, or --task with one of: {', '.join(tasks) or 'none, in this directory'}"
        raise DataError("--data", expected="a data set", got="none", remedy=remedy)
    return dict(tasks[name])


def _lengths(task: Mapping[str, Any], tokenizer: Tokenizer, models: Sequence[Any]) -> tuple[int, int]:
    """Return lengths for 95 % of the first prompts and references, in steps of 16 tokens, within the models' limits."""
    p = parse(PromptParams, dict(task), where="task")
    cases = list(islice(find_cases(p), _INSPECTED_CASES))
    prompt = _quantile([len(render(tokenizer, render_template(p.template, case))[1]) for case in cases])
    completion = _quantile([len(completion_ids(tokenizer, case.references[0])) for case in cases])
    for limits in (context(model.config) for model in models):
        completion = min(completion, limits.limit // 2)
        prompt = min(prompt, limits.prompt_limit(completion))
    return prompt, completion


def _quantile(lengths: Sequence[int]) -> int:
    covered = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
    return min(_MAX_LENGTH, 16 * math.ceil(covered / 16))


def _memory(sizes: Mapping[str, int], scoring: Precision, evaluation: Precision) -> list[str]:
    """Return lines that compare the weights with the memory of the device; activations come on top."""
    needs = {
        "scoring": sizes["teacher"] * lm.resolve_dtype(scoring).itemsize,
        "training": sizes["student"] * _BYTES_PER_TRAINED_PARAMETER,
        "evaluation": sum(sizes.values()) * lm.resolve_dtype(evaluation).itemsize,
    }
    memory = _device_bytes()
    amounts = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in needs.items())
    lines = [f"memory for weights: {amounts} (training with gradients and optimizer); device: {memory / 1e9:.1f} GB"]
    lines += ["warning: the student is larger than its teacher"] if sizes["student"] > sizes["teacher"] else []
    return lines + [f"warning: {name} does not fit the device" for name, size in needs.items() if size > memory]


def _device_bytes() -> int:
    if lm.device().type == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
