"""Write params.yaml for the user's own teacher, student and data: the command `stillroom init`.

* What a method of presets/methods had changed goes back to the default job's values. Every other line of params.yaml
  stays, comments included, and the result passes `check_params`.
* The data are looked at first, in seconds (`data_inspection`), then the models (`pair`). The teacher completes a few
  prompts (`probe`), which decide the lengths and say how far a ready-made student is. `recommendation` chooses sizes
  and rates, and `needs` estimates memory, disk and time. Everything that was chosen is reported with its reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.models.context import Context, context
from pipeline.models.language_model import device
from pipeline.models.tokenizer import completion_ids, render, shared_vocab
from pipeline.runtime.atomic import replacing
from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.tasks import Case
from pipeline.tasks.templates import TemplateParams, prompt_of, shortened_line
from pipeline.training.optimizer import OptimizerParams
from pipeline.workspace import needs
from pipeline.workspace.data_inspection import DataInspection, DataRequest, inspect_data
from pipeline.workspace.disk_usage import links_to_outputs
from pipeline.workspace.input_check import check_model
from pipeline.workspace.pair import Pair, load_student, open_pair
from pipeline.workspace.presets import defaults_of_methods, require_unchanged
from pipeline.workspace.probe import CAPS, Probe, ask_teacher, distance, quantile, rounded
from pipeline.workspace.recommendation import MOST_HELDOUT, Changes, Facts, Plan, job_changes, plan_job, reasons
from pipeline.workspace.schedule import follow_params
from pipeline.workspace.validation import check_params

_INSPECTED_CASES = 200  # The number of cases that decide the lengths
_MAX_LENGTH = 1024  # The largest length of prompts and of completions that is proposed, in tokens
_TOP = """# yaml-language-server: $schema=schemas/params.schema.json
# Every parameter of the pipeline; only keys of a student have defaults. docs/parameters.md explains each of them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """The options of the command line."""

    teacher: str
    student: str  # A model, or `teacher`: half of the teacher's layers
    fresh: bool
    lora: bool
    completions: int  # The number of prompts that the teacher completes; 0 takes the references' lengths
    data: DataRequest


def write_params(request: InitRequest, out: Path, *, force: bool) -> list[str]:
    """Write parameters that start from params.yaml to `out`, and rounds.yaml if `out` is params.yaml itself.

    Returns:
        What was found out and chosen, line by line.

    Raises:
        UserError: The models or the data do not fit, or `out` would lose edits and `force` is false.
    """
    if not force and out == LAYOUT.params:
        require_unchanged()
    elif not force and out.exists():
        raise DataError(out, expected="no file", got="one", remedy="add --force to replace it, or --out another")
    _check_writable(out)
    changes, findings = propose_params(request, read_yaml(LAYOUT.params))
    with replacing(out) as temporary:
        temporary.write_text(edit_yaml(LAYOUT.params, changes, top=_TOP), encoding="utf-8")
        check_params(temporary)
    if out == LAYOUT.params:
        follow_params()
    return findings


def _check_writable(out: Path) -> None:
    """Write nothing to a place where nothing can be written, before minutes of work."""
    try:
        with replacing(out.with_name(f".{out.name}-trial")) as temporary:
            temporary.touch()
        out.with_name(f".{out.name}-trial").unlink()
    except OSError as error:
        got = f"{type(error).__name__} ({error.strerror})"
        remedy = "name another with --out"
        raise DataError(out, expected="a file that can be written", got=got, remedy=remedy) from error


def propose_params(request: InitRequest, document: Mapping[str, Any]) -> tuple[Changes, list[str]]:
    """Inspect the data and the models, and choose the parameters.

    Args:
        request: The options of the command line.
        document: The parameters to start from.

    Returns:
        The parameters to change, and what was found out and chosen, line by line.

    Raises:
        UserError: Something does not fit.
    """
    check_model(request.teacher, "--teacher")
    if request.student != "teacher":
        check_model(request.student, "--student")
    data = inspect_data(request.data)
    read = request.completions > 0
    pair = open_pair(request.teacher, request.student, fresh=request.fresh, lora=request.lora, read=read)
    template, template_lines = _template(data, pair)
    limits = [context(model.config) for model in (pair.teacher, pair.student)]
    prompts = [render(pair.tokenizer, prompt_of(template, case))[1] for case in _first(data.train)]
    prompt = rounded(quantile(list(map(len, prompts))), _MAX_LENGTH)
    probe = _probe(pair, prompts, prompt, request.completions)
    prompt, completion, length_line = _lengths(data, pair, limits, prompt, probe)
    facts = Facts(
        kind=pair.kind,
        lora=pair.lora,
        separate=limits[0].separate,
        distance=_distance(pair, probe),
        weights=pair.student.num_parameters(),
        train=len(data.train),
        heldout=_heldout(data, pair, template, prompt),
        prompt=prompt,
        completion=completion,
        device="cuda" if device().type == "cuda" else "cpu",
    )
    plan = plan_job(facts)
    micro = needs.fitting_micro_batch(pair, facts, document, plan.batch)
    changes = defaults_of_methods() | _model_changes(request, pair, document) | _task_changes(data, template)
    changes |= job_changes(facts, plan, micro)
    findings = [*data.findings, *template_lines, *_model_lines(pair), length_line, *reasons(facts, plan, changes)]
    optimizer = document["optimizer"] | {key[1]: value for key, value in changes.items() if key[0] == "optimizer"}
    return changes, findings + _need_lines(pair, facts, plan, probe, {**document, "optimizer": optimizer}, micro)


def _first(cases: Sequence[Case]) -> Sequence[Case]:
    """Return cases that are spread over all of them."""
    step = max(1, len(cases) // _INSPECTED_CASES)
    return cases[::step][:_INSPECTED_CASES]


def _template(data: DataInspection, pair: Pair) -> tuple[TemplateParams, list[str]]:
    """Return the template of the prompts, and lines about it."""
    chat = bool(pair.tokenizer.chat_template)
    template = {"system": None, "variables": {}, **data.task["template"], "chat": chat}
    text = template["text"]
    if data.messages and chat:
        template["text"] = None
    elif text is not None and not chat and not text.endswith("\n"):
        template["text"] = f"{text}\n\n"
    line = f"prompts {'in the chat template' if chat else 'as plain text: the tokenizer has no chat template'}"
    params = parse(TemplateParams, template, where="task.template")
    return params, [line, *shortened_line(params, [*data.train, *data.heldout])]


def _heldout(data: DataInspection, pair: Pair, template: TemplateParams, longest: int) -> int:
    """Return the number of held-out cases, or of their distinct prompts where fewer are short enough for any job."""
    fitting: set[tuple[int, ...]] = set()
    for case in data.heldout:
        ids = tuple(render(pair.tokenizer, prompt_of(template, case))[1])
        if len(ids) <= longest:
            fitting.add(ids)
        if len(fitting) == MOST_HELDOUT:
            return len(data.heldout)
    return max(1, len(fitting))


def _probe(pair: Pair, prompts: Sequence[list[int]], longest: int, count: int) -> Probe | None:
    """Return completions of prompts that are spread over the first cases, if the teacher was read."""
    fitting = [ids for ids in prompts if len(ids) <= longest]
    if not pair.readable or not fitting:
        return None
    step = max(1, len(fitting) // count)
    limits = context(pair.teacher.config)
    limit = limits.limit if limits.separate else limits.limit - longest
    return ask_teacher(pair.teacher, pair.tokenizer, fitting[::step][:count], limit) if limit > 0 else None


def _distance(pair: Pair, probe: Probe | None) -> float | None:
    """Return how far a ready-made student is from its teacher in nats, if both can be in memory."""
    if probe is None or pair.kind != "ready-made" or not any(probe.lengths):
        return None
    student = load_student(pair)
    return None if student is None else distance(pair.teacher, student, probe, shared_vocab(pair.tokenizer))


def _lengths(
    data: DataInspection, pair: Pair, limits: Sequence[Context], prompt: int, probe: Probe | None
) -> tuple[int, int, str]:
    """Return the lengths of prompts and completions within the models' limits, and a line with the reason."""
    references = [len(completion_ids(pair.tokenizer, case.references[0])) for case in _first(data.train)]
    if probe is None:
        length, reason = quantile(references), "by the references; the teacher was not asked"
    elif 2 * len(probe.ended) < len(probe.lengths):
        length = quantile(references)
        reason = f"by the references; warning: only {len(probe.ended)} of {len(probe.lengths)} completions of the "
        reason += f"teacher ended within {CAPS[-1]:,} tokens or a minute"
    else:
        length = quantile(probe.ended)
        reason = f"by {len(probe.ended)} completions of the teacher that ended, of {len(probe.lengths)}"
    completion = rounded(length, min(_MAX_LENGTH, *(max(1, each.limit // 2) for each in limits)))
    prompt = min(prompt, *(each.prompt_limit(completion) for each in limits))
    prompts = f"prompts of at most {prompt} tokens, by {len(references)} cases"
    return prompt, completion, f"lengths: {prompts}; completions of at most {completion}, {reason}"


def _model_changes(request: InitRequest, pair: Pair, document: Mapping[str, Any]) -> Changes:
    return {
        ("teacher", "model"): request.teacher,
        ("teacher", "revision"): None,
        ("students",): ["student"],
        ("student",): {"student": pair.start},
        ("sft",): {name: tuning for name, tuning in document["sft"].items() if name == "teacher"},
    }


def _task_changes(data: DataInspection, template: TemplateParams) -> Changes:
    return {
        ("task", "name"): data.task["name"],
        ("task", "settings"): data.task["settings"],
        ("task", "template"): asdict(template),
    }


def _model_lines(pair: Pair) -> list[str]:
    sizes = pair.teacher.num_parameters(), pair.student.num_parameters()
    kinds = {"ready-made": "as it is", "cut": "half of the teacher's layers", "fresh": "random weights"}
    adapter = f", {pair.trained:,} of an adapter to train" if pair.lora else ""
    lines = [f"teacher: {sizes[0]:,} parameters", f"student: {sizes[1]:,} parameters, {kinds[pair.kind]}{adapter}"]
    lines += ["warning: the student is larger than its teacher"] if sizes[1] > sizes[0] else []
    hint = "`python -m bench.end_to_end.layers` finds better layers"
    return lines + ([hint] if pair.kind == "cut" else [])


def _need_lines(
    pair: Pair, facts: Facts, plan: Plan, probe: Probe | None, document: Mapping[str, Any], micro: int
) -> list[str]:
    memory = needs.memory_lines(needs.memory_needs(pair, facts, document, micro))
    optimizer = parse(OptimizerParams, document["optimizer"], where="optimizer")
    disk = needs.disk_line(pair, facts, plan, optimizer, linked=links_to_outputs(Path()))
    return [*memory, disk, needs.time_line(pair, facts, plan, probe)]
