"""Supervised fine-tuning, which uses the parts of distillation."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from ruamel.yaml import YAML
from torch import Tensor

from pipeline.checkpoints.pretrained import load_pretrained, stored_dtype
from pipeline.checkpoints.student import NewStudent, StudentParams
from pipeline.core.hashing import model_fingerprint, tree_digest
from pipeline.core.types import Prompt, reference_rollouts
from pipeline.lineage.lineage import read_lineage, teacher_lineage, write_lineage
from pipeline.losses.objective import ObjectiveParams, batch_loss
from pipeline.models import language_model as lm
from pipeline.models import lora as adapter
from pipeline.models.architectures import tied_head, untie_head
from pipeline.models.lora import LoraParams
from pipeline.runtime.errors import DataError, ModelError
from pipeline.runtime.files import read_rows, write_rows
from pipeline.training import round as training_round
from pipeline.training.batches import Pick, iter_batches, make_pool, plan_steps
from pipeline.training.log import read_log
from pipeline.training.run import TrainingData
from pipeline.training.sft import OneHotTeacher, SftParams, cross_entropy
from schemas.prompt import PROMPT
from stages.cli.main import commands
from stages.sft import main as stage
from tests.factories import model_source
from tests.training_jobs import MIX, OBJECTIVE, PROMPTS, SUPPORT, VOCAB, make_job, optimizer, scored, written_by

SFT = SftParams(references=None, steps=6, batch_size=4, micro_batch_size=2, optimizer=optimizer(learning_rate=3e-3))


def loss_and_gradients(
    path: Path, planned: list[list[list[Pick]]], objective: ObjectiveParams
) -> tuple[float, dict[str, Tensor], list[list[int]]]:
    """Return loss and gradients of the first step per token, and the texts of the step."""
    model = lm.load_model(path, to_train=True)
    (window,) = iter_batches(planned[:1], temperature=1.0, column=0)
    tokens, total = sum(len(batch.rows.token_ids_N) for batch in window), 0.0
    for batch in window:
        hidden_ND = lm.completion_hidden(model, batch.prompt_ids, batch.completion_ids)
        rows = batch.rows.to(model.device)
        loss, _ = batch_loss(objective, lm.head_of(model, VOCAB), hidden_ND, rows, behaviour_temperature=None)
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    texts = [
        ids for batch in window for pair in zip(batch.prompt_ids, batch.completion_ids, strict=True) for ids in pair
    ]
    return total / tokens, gradients, texts


def by_transformers(path: Path, texts: list[list[int]]) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and gradients of transformers from labels, sequence by sequence."""
    model, pairs = lm.load_model(path, to_train=True), list(zip(texts[::2], texts[1::2], strict=True))
    tokens, total = sum(len(completion) for _, completion in pairs), 0.0
    for prompt, completion in pairs:
        labels = torch.tensor([[-100] * len(prompt) + completion])
        loss = model(input_ids=torch.tensor([prompt + completion]), labels=labels).loss * len(completion) / tokens
        loss.backward()
        total += loss.item()
    return total, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.fixture(scope="module")
def student(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = {"vocab": VOCAB, "bos_token_id": 38, "eos_token_id": 39, "pad_token_id": 39}
    return make_model_dir(tmp_path_factory.mktemp("sft") / "student", seed=2, initializer_range=0.1, **ids)


def test_the_loss_is_the_cross_entropy_of_transformers(student: Path) -> None:
    data = TrainingData.of_references(reference_rollouts(PROMPTS), SFT.batches)
    planned = plan_steps(data.own, data.corpus, SFT.batches, key=(0,), steps=range(SFT.steps), replay=0.0)
    loss, gradients, texts = loss_and_gradients(student, planned, cross_entropy(5))
    expected, expected_gradients = by_transformers(student, texts)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert set(gradients) == set(expected_gradients)
    assert max((gradients[name] - gradient).abs().max().item() for name, gradient in expected_gradients.items()) < 1e-6
    assert max(gradient.abs().max().item() for gradient in gradients.values()) > 1e-2


def test_sequence_level_kd_is_cross_entropy_on_the_teachers_own_completions(
    student: Path, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """The parameters of the objective make the loss over scored generations ignore the scores."""
    job = make_job(make_model_dir, tmp_path, samples=1, tokens=2, teacher_range=0.1, dropout=0.0)
    generations = [
        replace(rollout, source="teacher", behaviour_logp=[], support_ids=[])
        for rollout in written_by(job.teacher, 2, tokens=6)
    ]
    mix = replace(MIX, student_fraction=0.0)
    pool = scored(generations, job.teacher, tmp_path / "segment")
    nobody = make_pool([], OneHotTeacher(rollouts=[]), mix)
    planned = plan_steps(nobody, pool, mix, key=(0,), steps=range(1), replay=0.0)
    loss, gradients, texts = loss_and_gradients(student, planned, replace(OBJECTIVE, cross_entropy=1.0))
    expected, expected_gradients = by_transformers(student, texts)
    assert SUPPORT.samples_per_tail > 0
    assert loss == pytest.approx(expected, abs=1e-6)
    assert max((gradients[name] - gradient).abs().max().item() for name, gradient in expected_gradients.items()) < 1e-6
    distilled, _, _ = loss_and_gradients(student, planned, OBJECTIVE)
    assert abs(distilled - expected) > 0.01


# The stage


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a run, with prompts and parameters."""
    monkeypatch.chdir(tmp_path)
    prompts = [
        replace(prompt, prompt_ids=[256, *prompt.prompt_ids], reference_ids=[*prompt.reference_ids[:-1], 257])
        for prompt in PROMPTS
    ]
    write_rows(Path("work/prompts/train.parquet"), prompts, PROMPT)
    tuning = {"references": None, "steps": 6, "batch_size": 4, "micro_batch_size": 2, "optimizer": {**SETTINGS}}
    document = {"seed": 0, "objective": {"chunk_tokens": 5}, "task": {"name": "gsm8k"}, "sft": {"small": tuning}}
    YAML(typ="safe").dump(document, Path("params.yaml"))
    return tmp_path


SETTINGS = {name: getattr(SFT.optimizer, name) for name in SFT.optimizer.__slots__}


def tune(model: Path, out: str) -> tuple[str, str]:
    stage.run(name="small", model=model, out=Path(out), log=Path(f"{out}.csv"))
    return tree_digest(Path(out)), Path(f"{out}.csv").read_text(encoding="utf-8")


def test_tuning_learns_the_references_and_is_logged(place: Path, student_dir: Path) -> None:
    tune(student_dir, "tuned")
    rows = read_log(Path("tuned.csv"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {(row["student"], row["round"], row["own_share"]) for row in rows} == {("small", "sft", 0.0)}
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert stored_dtype(Path("tuned")) == torch.float32
    assert YAML(typ="safe").load(Path("work/costs/small-sft.json"))["tokens"] == sum(row["read_tokens"] for row in rows)


def test_a_number_of_references_is_that_many_from_the_first(place: Path, student_dir: Path) -> None:
    document = YAML(typ="safe").load(Path("params.yaml"))
    document["sft"]["small"]["references"] = 4
    YAML(typ="safe").dump(document, Path("params.yaml"))
    few = tune(student_dir, "few")
    train = Path("work/prompts/train.parquet")
    write_rows(train, [Prompt(**row) for row in read_rows(train, PROMPT)][:4], PROMPT)
    assert tune(student_dir, "all-of-four") == few
    document["sft"]["small"]["references"] = 5
    YAML(typ="safe").dump(document, Path("params.yaml"))
    with pytest.raises(DataError) as caught:
        tune(student_dir, "too-many")
    message = "sft.small.references: expected at most the 4 training prompts, got 5; lower it"
    assert str(caught.value) == message


def test_what_is_written_wrong_is_not_published(
    place: Path, student_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(model: Any, folder: Path) -> None:
        shutil.copytree(student_dir, folder, dirs_exist_ok=True)  # the model before tuning

    monkeypatch.setattr("pipeline.models.language_model.save_model", save)
    with pytest.raises(ModelError, match="expected to read the model again that was written, got logits that differ"):
        tune(student_dir, "tuned")
    assert not Path("tuned").exists()


def test_any_model_is_tuned_by_the_command(place: Path, student_dir: Path) -> None:
    words = ["sft", "--model", str(student_dir), "--out", "mine/tuned", "--name", "small"]
    assert CliRunner().invoke(commands, words, catch_exceptions=False).exit_code == 0
    assert (tree_digest(Path("mine/tuned")), Path("mine/tuned.csv").read_text(encoding="utf-8")) == tune(
        student_dir, "stage"
    )


def test_a_killed_tuning_ends_with_the_same_model(
    place: Path, student_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune(student_dir, "whole")

    def interrupted(planned: Any, **options: Any) -> Iterator[Any]:
        for step, window in enumerate(iter_batches(planned, **options)):
            if step == 3:
                raise KeyboardInterrupt
            yield window

    monkeypatch.setattr(training_round, "iter_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(student_dir, "killed")
    assert not Path("killed").exists()
    with pytest.raises(KeyboardInterrupt):
        tune(student_dir, "killed")  # went on after step 2, and on to 5
    monkeypatch.setattr(training_round, "iter_batches", iter_batches)
    assert tune(student_dir, "killed") == whole


def test_a_tuned_teacher_keeps_its_precision_and_records_the_tuning(
    place: Path, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model_dir(tmp_path / "base", seed=3)
    lm.load_model(base).to(torch.bfloat16).save_pretrained(base)
    print_ = model_fingerprint(base)
    write_lineage(base, teacher_lineage(model_source(fingerprint=print_)))
    tune(base, "teacher")
    assert stored_dtype(Path("teacher")) == torch.bfloat16
    lineage = read_lineage(Path("teacher"))
    assert lineage is not None
    (tuning,) = lineage.tunings
    assert (tuning.model, tuning.before, tuning.after) == ("small", print_, model_fingerprint(Path("teacher")))
    assert lineage.teacher.fingerprint == tuning.after != print_
    assert tuning.parameters["steps"] == 6
    assert "save_steps" not in tuning.parameters["optimizer"]  # type: ignore[operator]


def test_tuning_an_adapter_does_not_change_its_base(place: Path, student_dir: Path) -> None:
    home, lora = (
        Path("work/small"),
        LoraParams(
            r=4, lora_alpha=8, lora_dropout=0.0, use_rslora=False, target_modules="all-linear", base_dtype="float32"
        ),
    )
    p = StudentParams(model="teacher", revision=None, layers=None, config=None, lora=lora)
    base, before, made = home / "base", home / "untuned/model", home / "init/model"
    base.mkdir(parents=True)
    before.mkdir(parents=True)
    model, tokenizer = load_pretrained(str(student_dir), None, dtype=torch.float32, where="student.small.model")
    NewStudent(model=model, tokenizer=tokenizer, params=p, seed=0, where="student.small").save(base, before)
    frozen = tree_digest(base)
    tune(before, str(made))
    assert adapter.is_adapter(made)
    assert not list(made.glob("model*.safetensors"))
    assert tree_digest(base) == frozen
    rows = read_log(Path(f"{made}.csv"))
    assert rows[-1]["loss"] < rows[0]["loss"]
    weights = [lm.load_model(folder).state_dict() for folder in (before, made)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_decoder_is_tuned(place: Path, make_t5_dir: Callable[..., Path], tied: bool) -> None:
    write_rows(Path("work/prompts/train.parquet"), PROMPTS, PROMPT)
    model = make_t5_dir(place / "t5", seed=3)
    if not tied:
        untie_head(lm.load_model(model)).save_pretrained(model)
    tune(model, "tuned")
    rows = read_log(Path("tuned.csv"))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert tied_head(lm.load_model(Path("tuned"))) == tied


def test_one_hot_rows_store_their_own_tokens() -> None:
    rollouts = reference_rollouts(PROMPTS)
    (stretch,) = OneHotTeacher(rollouts=rollouts).read_stretches(3, 7)
    assert stretch.scores.top.ids[slice(*stretch.bounds["top"][2:4])].tolist() == rollouts[5].completion_ids
