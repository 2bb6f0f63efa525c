"""`stillroom init`: params.yaml for the user's own teacher, student and data, checked before anything is written.

Guarantee: every other line of the params.yaml that it starts from stays, comments too, and the result passes
`check_params`. What it decides by looking: the task, by the data's columns; the lengths, by the data's first cases;
chat or plain text, by the tokenizer.
Cost: the tokenizers and configurations of both models and the data; no weights. Memory is arithmetic, not measured.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import AutoConfig

from pipeline import lm
from pipeline.errors import DataError, ModelError
from pipeline.families import auto_class
from pipeline.params import parse
from pipeline.pretrained import locate
from pipeline.prompts import PromptParams, find_cases
from pipeline.tasks import TASKS
from pipeline.tasks.rows import RowSettings, iter_rows
from pipeline.template import fill
from pipeline.text import Tokenizer, completion_ids, load_tokenizer, render, require_same_tokenizer

_TEXTS = {  # task, in the order in which they are tried: how a model is asked; null: as a conversation
    "instructions": "{request}",
    "summarisation": "Summarise in one or two sentences:\n\n{document}",
    "gsm8k": "{question}\n\nThink step by step, and end with the answer after ####.",
    "translation": "Translate:\n\n{source}",
}
_COLUMNS = {  # the usual names, by the field of task.settings
    "messages_column": ("messages", "conversation", "conversations"),
    "instruction_column": ("instruction", "prompt"),
    "input_column": ("input", "context"),
    "output_column": ("output", "completion", "response"),
    "document_column": ("document", "article", "dialogue", "text"),
    "summary_column": ("summary", "highlights", "target"),
    "question_column": ("question", "problem"),
    "answer_column": ("answer", "solution"),
    "source_column": ("source",),
    "target_column": ("target", "translation"),
}
_NEEDED = {"instructions": ("instruction_column", "output_column")}
_LOOKED_AT = 200  # cases that tell the lengths
_LONGEST = 1024
_TRAIN_BYTES = 16  # a parameter: weight, gradient and two moments in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line names."""

    teacher: str
    student: str
    data: str
    task: str | None
    config: str | None
    train_split: str
    heldout_split: str
    columns: Mapping[str, str]  # field of task.settings to column


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What to change in params.yaml, and what was found out."""

    changes: dict[tuple[str, ...], Any]
    told: list[str]


def begin(wish: Wish, document: Mapping[str, Any]) -> Beginning:
    """Look at models and data; `document` is the params.yaml to start from. A UserError says what does not fit."""
    tokenizer = _tokenizer(wish.teacher, "--teacher")
    cut = wish.student == "teacher"
    if not cut:
        require_same_tokenizer(tokenizer, _tokenizer(wish.student, "--student"), (wish.teacher, wish.student))
    task, told = _task(wish, tokenizer)
    sizes = {name: _parameters(model, f"--{name}") for name, model in _models(wish).items()}
    lengths = _lengths(task, tokenizer)
    student = dict(next(iter(document["student"].values()))) | {"model": wish.student, "revision": None, "config": None}
    student["layers"] = _half(_config(wish.teacher, "--teacher").num_hidden_layers) if cut else None
    changes: dict[tuple[str, ...], Any] = {
        ("teacher", "model"): wish.teacher,
        ("teacher", "revision"): None,
        ("students",): ["student"],
        ("student",): {"student": student},
        ("task", "max_prompt_tokens"): lengths[0],
        ("rollout", "sampling", "max_new_tokens"): lengths[1],
        ("evaluation", "max_new_tokens"): lengths[1],
        **{("task", key): value for key, value in task.items() if key != "max_prompt_tokens"},
    }
    told += [f"{name}: {size:,} parameters" for name, size in sizes.items()]
    told += [f"prompts of at most {lengths[0]} tokens, completions of {lengths[1]}: 95 % of the cases fit"]
    told += _memory(sizes, document["teacher"]["dtype"], cut=cut)
    return Beginning(changes=changes, told=told)


def _models(wish: Wish) -> dict[str, str]:
    return {"teacher": wish.teacher} | ({} if wish.student == "teacher" else {"student": wish.student})


def _tokenizer(model: str, where: str) -> Tokenizer:
    place, options = locate(model, where)
    return load_tokenizer(place, **options)


def _config(model: str, where: str) -> Any:
    place, options = locate(model, where)
    try:
        return AutoConfig.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        got = " ".join(str(error).split())[:160]
        raise ModelError(where, expected="a model", got=got, remedy="check the name and the network") from error


def _parameters(model: str, where: str) -> int:
    """How many the model has, from its configuration alone."""
    config = _config(model, where)
    with torch.device("meta"):
        return int(auto_class(config).from_config(config).num_parameters())


def _half(layers: int) -> list[int]:
    """Half of the layers, the first and the last among them."""
    count = max(2, math.ceil(layers / 2))
    return sorted({round(index * (layers - 1) / (count - 1)) for index in range(count)})


def _task(wish: Wish, tokenizer: Tokenizer) -> tuple[dict[str, Any], list[str]]:
    """The section `task`, and what was seen."""
    rows: dict[str, Any] = {"data": wish.data, "config": wish.config, "revision": None}
    rows |= {"train_split": wish.train_split, "heldout_split": wish.heldout_split}
    look = RowSettings(**rows)
    first = next(iter_rows(look, wish.heldout_split, list(wish.columns.values()) or ["column"]))
    name, columns = _choose(wish, list(first.values))
    chat = bool(tokenizer.chat_template)
    text = None if chat and columns.get("messages_column") else _TEXTS[name]
    template = {"text": text if chat or text is None else f"{text}\n\n", "chat": chat, "system": None}
    found = {"name": name, "train": 2000, "heldout": 200, "max_prompt_tokens": _LONGEST, "template": template}
    shown = ", ".join(f"{key}={value}" for key, value in columns.items() if value)
    told = [f"task {name}: {shown}", f"asked {'in the chat template' if chat else 'as plain text: no chat template'}"]
    return found | {"settings": rows | columns}, told


def _choose(wish: Wish, columns: Sequence[str]) -> tuple[str, dict[str, str | None]]:
    """The task and its columns: those that were named, or else the usual ones."""
    names = [wish.task] if wish.task else list(_TEXTS)
    for name in names:
        if name not in _TEXTS:
            known = ", ".join(_TEXTS)
            raise DataError("--task", expected=f"one of: {known}", got=repr(name), remedy="mend it or leave it out")
        found = {field: wish.columns.get(field) or _usual(field, columns) for field in _fields(name)}
        if found.get("messages_column"):
            return name, {field: one if field == "messages_column" else None for field, one in found.items()}
        if all(found[field] for field in _NEEDED.get(name, _fields(name))):
            return name, found
    wanted = "; ".join(f"{name}: {', '.join(_NEEDED.get(name, _fields(name)))}" for name in names)
    remedy = "name them, such as --column answer_column=solution"
    raise DataError(wish.data, expected=f"columns for {wanted}", got=", ".join(columns), remedy=remedy)


def _fields(task: str) -> tuple[str, ...]:
    return tuple(one for one in TASKS[task].settings.__dataclass_fields__ if one.endswith("_column"))


def _usual(field: str, columns: Sequence[str]) -> str | None:
    return next((one for one in _COLUMNS[field] if one in columns), None)


def _lengths(task: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[int, int]:
    """Tokens that 95 % of the first cases' prompts and references stay under, in whole steps of 16."""
    p = parse(PromptParams, dict(task), where="task")
    cases = list(islice(find_cases(p), _LOOKED_AT))
    prompts = [len(render(tokenizer, fill(p.template, one))[1]) for one in cases]
    answers = [len(completion_ids(tokenizer, one.references[0])) for one in cases]
    return _most(prompts), _most(answers)


def _most(lengths: Sequence[int]) -> int:
    covered = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
    return min(_LONGEST, 16 * math.ceil(covered / 16))


def _memory(sizes: Mapping[str, int], dtype: str, *, cut: bool) -> list[str]:
    """Weights alone, against what the device has; activations come on top."""
    needed = {"scoring": sizes["teacher"] * (2 if dtype == "bfloat16" else 4)}
    needed["training"] = (sizes["teacher"] // 2 if cut else sizes["student"]) * _TRAIN_BYTES
    has = _device_bytes()
    shown = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in needed.items())
    told = [f"memory for weights: {shown} (float32 with optimizer); the device has {has / 1e9:.1f} GB"]
    told += [f"warning: {name} does not fit the device" for name, size in needed.items() if size > has]
    return told + (["the student is half of the teacher; `python -m bench.layers` finds better layers"] if cut else [])


def _device_bytes() -> int:
    if lm.device().type == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
