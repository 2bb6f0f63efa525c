"""Training of a tiny student from a tiny teacher, with all parts of the pipeline from rollout to checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from pipeline.core.types import Prompt, Rollout
from pipeline.evaluation.agreement import ModelPair, compare, concatenate
from pipeline.evaluation.completions import complete
from pipeline.losses.batch import Batch
from pipeline.models import language_model as lm
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.rollout.sampler import Sampled
from pipeline.training.batches import iter_batches, plan_steps
from pipeline.training.checkpoint import checkpoints, make_state, open_run
from pipeline.training.log import read_log
from pipeline.training.optimizer import OptimizerParams
from tests.factories import evaluation_params, lora_params, make_lora_student
from tests.training_jobs import (
    EOS,
    KEY,
    MIX,
    OBJECTIVE,
    PROMPTS,
    VOCAB,
    Job,
    make_job,
    optimizer,
    scored,
    take_steps,
    training_run,
    written_by,
)


@pytest.fixture(scope="module")
def job(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return a job with attention dropout, so that the randomness of a step matters to a resumed run."""
    root = tmp_path_factory.mktemp("job")
    return make_job(make_model_dir, root, samples=2, tokens=8, teacher_range=0.5, dropout=0.1)


def prompt_of(rollout: Rollout) -> Prompt:
    """Return the prompt of a rollout."""
    return next(prompt for prompt in PROMPTS if prompt.prompt_id == rollout.prompt_id)


def windows(job: Job, steps: range, *, resume_at: int | None = None, micro: int = 3) -> Iterator[list[Batch]]:
    p = replace(MIX, micro_batch_size=micro)
    at = steps.start if resume_at is None else resume_at
    planned = plan_steps(job.own, job.corpus, p, key=KEY, steps=steps, replay=0.0)[at - steps.start :]
    return iter_batches(planned, temperature=1.0, column=0)


def train_from(
    job: Job,
    scratch: Path,
    steps: range,
    p: OptimizerParams,
    *,
    fail_before: int | None = None,
    micro: int = 3,
    **changes: Any,
) -> Path:
    """Train as a stage does, from the newest checkpoint to the last step, and return the last checkpoint.

    Raises:
        KeyboardInterrupt: Before the step `fail_before`.
    """
    scratch.mkdir(exist_ok=True)
    run = training_run(**({"start": job.student, "steps": steps, "optimizer": p} | changes))
    model, state = open_run(run, scratch)

    def interrupted() -> Iterator[list[Batch]]:
        remaining = steps[len(state.rows) :]
        for step, window in zip(remaining, windows(job, steps, resume_at=remaining.start, micro=micro), strict=True):
            if step == fail_before:
                raise KeyboardInterrupt
            yield window

    take_steps(model, interrupted(), state, run, scratch)
    (last,) = checkpoints(scratch)
    return last


def contents(checkpoint: Path) -> tuple[dict[str, bytes], list[Any], str]:
    """Return everything that a checkpoint holds, for comparison by bits."""
    (file,) = (checkpoint / "model").glob("*.safetensors")
    weights = load_file(file)
    moments = torch.load(checkpoint / "optimizer.pt", weights_only=True)["optimizer"]["state"]
    flat = [(index, name, value.numpy().tobytes()) for index, state in moments.items() for name, value in state.items()]
    assert flat
    return (
        {name: value.numpy().tobytes() for name, value in weights.items()},
        flat,
        (checkpoint / "train.csv").read_text(encoding="utf-8"),
    )


# Windows


def gradients(
    job: Job, micro: int, scratch: Path, *, prompt: list[int] | None = None, **changes: Any
) -> tuple[Any, dict[str, Tensor]]:
    """Return the log row of one window without dropout, and its gradients as the optimizer gets them.

    `prompt` stands in place of all prompts.
    """
    p, seen = optimizer(**({"max_grad_norm": 1e9, "disable_dropout": True} | changes)), {}
    model = lm.load_model(job.student, to_train=True)
    state = make_state(model, p, previous=None)

    def record(*_: Any) -> None:
        seen.update({name: weight.grad.clone() for name, weight in model.named_parameters()})

    state.optimizer.register_step_pre_hook(record)
    batches = windows(job, range(1), micro=micro)
    if prompt:
        batches = (
            [replace(batch, prompt_ids=[prompt] * len(batch.prompt_ids)) for batch in window] for window in batches
        )
    take_steps(model, batches, state, training_run(job.student, range(1), optimizer=p), scratch)
    return state.rows[0], seen


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_sum_the_gradient_of_a_shared_prompt_in_one_order(job: Job, two_threads: None, tmp_path: Path) -> None:
    """The prompt is long enough for torch to share out the sum, and has more completions than two, whose sum has none
    but one order."""
    prompt = np.random.default_rng(0).integers(VOCAB, size=800).tolist()
    first, *others = (gradients(job, 6, tmp_path, prompt=prompt)[1] for _ in range(5))
    assert all(torch.equal(other[name], first[name]) for other in others for name in first)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_splitting_a_window_changes_neither_loss_nor_gradient(job: Job, micro: int, tmp_path: Path) -> None:
    row, split = gradients(job, micro, tmp_path)
    row_at_once, at_once = gradients(job, 6, tmp_path)
    assert row["loss"] == pytest.approx(row_at_once["loss"], abs=1e-6)
    assert max((split[name] - at_once[name]).abs().max().item() for name in at_once) < 1e-6
    assert max(gradient.abs().max().item() for gradient in at_once.values()) > 1e-2


# Settings


def test_gradients_are_clipped_as_torch_clips_them(job: Job, tmp_path: Path) -> None:
    """The accumulated gradient of the whole window is clipped, not the gradient of a micro-batch."""
    row, whole = gradients(job, 2, tmp_path)
    limit = row["grad_norm"] / 3
    clipped_row, clipped = gradients(job, 2, tmp_path, max_grad_norm=limit)
    weights = [torch.zeros_like(gradient).requires_grad_() for gradient in whole.values()]
    for weight, gradient in zip(weights, whole.values(), strict=True):
        weight.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(weights, limit)
    assert clipped_row["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)  # logged as it was
    for weight, name in zip(weights, clipped, strict=True):
        assert torch.allclose(clipped[name], weight.grad, rtol=1e-5, atol=1e-9)  # type: ignore[arg-type]
    total = torch.stack([gradient.norm() for gradient in clipped.values()]).norm()
    assert total.item() == pytest.approx(limit, rel=1e-4)


def test_autocast_to_bfloat16_is_close_to_float32(job: Job, tmp_path: Path) -> None:
    """Weights, gradients and moments stay in float32; directions agree within the three digits of bfloat16."""
    row, full = gradients(job, 3, tmp_path)
    half_row, half = gradients(job, 3, tmp_path, precision="bfloat16")
    assert half_row["loss"] == pytest.approx(row["loss"], rel=1e-2)
    assert half_row["loss"] != row["loss"]
    assert {gradient.dtype for gradient in half.values()} == {torch.float32}
    full_flat, other = (torch.cat([value.flatten() for value in each.values()]) for each in (full, half))
    assert torch.nn.functional.cosine_similarity(full_flat, other, dim=0) > 0.999
    assert other.norm().item() == pytest.approx(full_flat.norm().item(), rel=2e-2)


def test_checkpointing_activations_changes_no_gradient(job: Job, tmp_path: Path) -> None:
    row, plain = gradients(job, 3, tmp_path)
    again_row, again = gradients(job, 3, tmp_path, gradient_checkpointing=True)
    assert again_row["loss"] == pytest.approx(row["loss"], abs=1e-6)
    assert max((again[name] - plain[name]).abs().max().item() for name in plain) < 1e-6


def test_a_checkpointed_adapter_gets_the_gradient_of_a_plain_one(adapted: Job, tmp_path: Path) -> None:
    """Checkpointed layers get gradients although their inputs need none."""
    rows = []
    for keep in (False, True):
        p = optimizer(gradient_checkpointing=keep, max_grad_norm=1e9, disable_dropout=True)
        run = training_run(adapted.student, range(1), optimizer=p)
        model, state = open_run(run, tmp_path / str(keep))
        take_steps(model, windows(adapted, run.steps), state, run, tmp_path / str(keep))
        rows.append(state.rows[0])
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-4)
    assert rows[0]["grad_norm"] > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(attention_bias=True),
        transformers.Gemma2Config(),
        transformers.Qwen3Config(),
        transformers.PhiConfig(),
        transformers.GPT2Config(),
        transformers.BartConfig(),
        transformers.T5Config(),
    ],
    ids=lambda config: config.model_type,
)
def test_weights_decay_as_in_transformers_trainer(config: Any) -> None:
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "d_ff": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "n_positions": 8, "num_layers": 1}
    sizes |= {"d_model": 8, "n_embd": 8, "n_head": 2, "n_layer": 1, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_heads": 2, "pad_token_id": 0}
    sizes |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "d_kv": 4, "bos_token_id": 0, "eos_token_id": 0}
    known = {name: value for name, value in sizes.items() if name in config.to_dict() or name in config.attribute_map}
    model = lm.auto_class(config).from_config(type(config)(**known))
    decaying, staying = make_state(model, optimizer(weight_decay=0.3), previous=None).optimizer.param_groups
    assert (decaying["weight_decay"], staying["weight_decay"]) == (0.3, 0.0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    wanted = set(transformers.Trainer.get_decay_parameter_names(None, model))
    assert {names[id(weight)] for weight in decaying["params"]} == wanted & set(names.values())
    assert {names[id(weight)] for weight in staying["params"]} == set(names.values()) - wanted


# LM heads with more rows than the tokenizer has tokens


def padded(source: Path, path: Path, rows: int) -> Path:
    """Write the model with a head of so many rows; the new rows would have nearly all of the probability."""
    model = lm.load_model(source)
    vocab = model.config.vocab_size
    model.resize_token_embeddings(rows, mean_resizing=False)
    generator = torch.Generator().manual_seed(rows)
    width = model.config.hidden_size
    with torch.no_grad():
        model.get_output_embeddings().weight[vocab:] = 20 * torch.randn(rows - vocab, width, generator=generator)
        ids = torch.tensor([prompt.prompt_ids for prompt in PROMPTS])
        assert model(input_ids=ids).logits.softmax(-1)[..., vocab:].sum(-1).mean() > 0.9
    model.save_pretrained(path)
    return path


def passed_through(
    teacher: Path, student: Path, root: Path, name: Any, vocab: int
) -> tuple[list[Batch], dict[str, Any], dict[str, Tensor], dict[str, float]]:
    """Return rollouts, scores, log, gradients and the comparison of two models."""
    own = scored(
        written_by(student, 2, tokens=4, record_tail_samples=4, vocab=vocab), teacher, root / "own", vocab=vocab
    )
    model, seen = lm.load_model(student, to_train=True), {}
    state = make_state(model, optimizer(max_grad_norm=1e9), previous=None)

    def record(*_: Any) -> None:
        seen.update({name: weight.grad.clone() for name, weight in model.named_parameters()})

    state.optimizer.register_step_pre_hook(record)
    planned = plan_steps(own, own, replace(MIX, student_fraction=1.0), key=KEY, steps=range(1), replay=0.0)
    (window,) = iter_batches(planned, temperature=1.0, column=0)
    objective = replace(OBJECTIVE, divergence=replace(OBJECTIVE.divergence, name=name))
    run = training_run(student, range(1), objective=objective, vocab_size=vocab)
    take_steps(model, iter([window]), state, run, root)
    p = evaluation_params(prompts=3, batch_size=3, max_new_tokens=4, recorded_prompts=0)
    sampler = HFSampler(student, precision="float32", vocab=vocab, eos_ids=[EOS], seed=1)
    completions = complete(PROMPTS[:3], sampler, p, title="complete").sampled
    models = ModelPair(student=student, teacher=teacher, vocab_size=vocab)
    agreements = compare(models, PROMPTS[:3], completions, p, title="compare")
    return window, state.rows[0], seen, concatenate(agreements).means()


@pytest.mark.parametrize(
    "vocab, of_teacher, of_student, name",
    [(40, 47, 43, "reverse_kl"), (40, 40, 47, "forward_kl"), (151_665, 152_064, 151_936, "forward_kl")],
)
def test_rows_of_the_head_beyond_the_tokenizer_have_no_effect(
    make_model_dir: Callable[..., Path],
    tmp_path: Path,
    vocab: int,
    of_teacher: int,
    of_student: int,
    name: str,
) -> None:
    """The last sizes are those of Qwen2.5: the tokenizer, the heads from 7B on, and the heads of smaller models."""
    sizes = {"vocab": vocab, "hidden_size": 8, "intermediate_size": 8, "layers": 1, "initializer_range": 0.8}
    ids = {"bos_token_id": 38, "eos_token_id": EOS, "pad_token_id": EOS}
    exact = [make_model_dir(tmp_path / f"{seed}", seed=seed, **sizes, **ids) for seed in (1, 2)]
    wide = [
        padded(path, tmp_path / f"{path.name}-wide", rows) if rows > vocab else path
        for path, rows in zip(exact, (of_teacher, of_student), strict=True)
    ]
    batches, row, gradients, means = passed_through(*exact, tmp_path / "exact", name, vocab)
    batches_, row_, gradients_, means_ = passed_through(*wide, tmp_path / "wide", name, vocab)
    for window, other in zip(batches, batches_, strict=True):
        assert other.completion_ids == window.completion_ids
        for field in ("ids_NK", "logp_NK", "tail_sample_ids_NJ", "tail_N", "token_ids_N", "behaviour_logp_N"):
            assert np.allclose(getattr(other.rows, field), getattr(window.rows, field), rtol=1e-6, atol=1e-6), field
    assert row_["loss"] == pytest.approx(row["loss"], abs=1e-6)
    assert row["loss"] > 0.1
    assert means_ == pytest.approx(means, abs=1e-6)
    for name, gradient in gradients.items():
        assert (gradients_[name][: len(gradient)] - gradient).abs().max() < 1e-6, name
    (head,) = [gradient for key, gradient in gradients_.items() if key.endswith("embed_tokens.weight")]
    assert len(head) == of_student
    assert not head[vocab:].any()


# Interruption


@pytest.fixture(scope="module")
def uninterrupted(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_from(job, tmp_path_factory.mktemp("whole") / "scratch", range(4, 10), optimizer())


@pytest.mark.parametrize("fail_before", [[4], [5], [6], [7], [8], [9], [5, 7, 9]])
def test_a_resumed_run_ends_with_the_same_bits(
    job: Job, uninterrupted: Path, fail_before: list[int], tmp_path: Path
) -> None:
    for step in fail_before:
        with pytest.raises(KeyboardInterrupt):
            train_from(job, tmp_path / "scratch", range(4, 10), optimizer(), fail_before=step)
        expected = [f"step-{step - step % 2:08d}"] if step > 5 else []
        assert [folder.name for folder in checkpoints(tmp_path / "scratch")] == expected
    assert contents(train_from(job, tmp_path / "scratch", range(4, 10), optimizer())) == contents(uninterrupted)


def test_without_dropout_the_sampling_policy_is_not_stale(job: Job, tmp_path: Path) -> None:
    results = []
    for without in (True, False):
        p = optimizer(disable_dropout=without)
        run = training_run(job.student, range(1), optimizer=p)
        model, state = open_run(run, tmp_path / str(without))
        take_steps(model, windows(job, run.steps), state, run, tmp_path / str(without))
        results.append(state.rows[0]["staleness_kl"])
    assert abs(results[0]) < 1e-6
    assert results[1] > 1e-4


def test_dropout_is_on_in_the_tests_above(job: Job, uninterrupted: Path, tmp_path: Path) -> None:
    """Other random numbers give another student from the same windows."""
    run = training_run(job.student, range(4, 10), seed=1)
    model, state = open_run(run, tmp_path)
    take_steps(model, windows(job, run.steps), state, run, tmp_path)
    (other,) = checkpoints(tmp_path)
    assert contents(other)[0] != contents(uninterrupted)[0]


def test_a_run_that_was_killed_after_its_last_step_takes_no_more_steps(job: Job, tmp_path: Path) -> None:
    done = contents(train_from(job, tmp_path / "scratch", range(2), optimizer()))
    assert contents(train_from(job, tmp_path / "scratch", range(2), optimizer(), fail_before=0)) == done


# Early refresh


def test_a_round_ends_after_the_first_step_beyond_the_limit_and_is_the_same_when_resumed(
    job: Job, uninterrupted: Path, tmp_path: Path
) -> None:
    """The round may have been killed between its last checkpoint and its publication."""
    rows = read_log(uninterrupted / "train.csv")
    limit = (rows[1]["staleness_kl"] + rows[2]["staleness_kl"]) / 2
    assert rows[0]["staleness_kl"] < limit
    ended = train_from(job, tmp_path / "whole", range(4, 10), optimizer(), max_staleness=limit)
    assert ended.name == "step-00000007"
    assert read_log(ended / "train.csv") == rows[:3]
    for step in (5, 6):
        with pytest.raises(KeyboardInterrupt):
            train_from(job, tmp_path / "killed", range(4, 10), optimizer(), max_staleness=limit, fail_before=step)
    for _ in range(2):
        assert contents(
            train_from(job, tmp_path / "killed", range(4, 10), optimizer(), max_staleness=limit)
        ) == contents(ended)


def test_a_limit_that_is_not_reached_changes_nothing(job: Job, uninterrupted: Path, tmp_path: Path) -> None:
    assert contents(train_from(job, tmp_path, range(4, 10), optimizer(), max_staleness=1e9)) == contents(uninterrupted)


# Adapters


@pytest.fixture(scope="module")
def adapted(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return the same job for an adapter of the student with its own dropout."""
    home = tmp_path_factory.mktemp("adapted")
    return replace(job, student=make_lora_student(home, job.student, lora_params(lora_dropout=0.2)))


def test_training_an_adapter_changes_the_adapter_only(adapted: Job, tmp_path: Path) -> None:
    base = adapted.student.parent.parent / "base" / "model.safetensors"
    before, size = base.read_bytes(), base.stat().st_size
    last = train_from(adapted, tmp_path / "scratch", range(6), optimizer())
    assert base.read_bytes() == before
    first, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapted.student, last / "model"))
    assert first.keys() == after.keys()
    assert all(not torch.equal(first[name], after[name]) for name in first if "lora_B" in name)
    moments = torch.load(last / "optimizer.pt", weights_only=True)["optimizer"]["state"].values()
    assert sum(tensor["exp_avg"].numel() for tensor in moments) == sum(tensor.numel() for tensor in after.values())
    assert sum(file.stat().st_size for file in (last / "model").iterdir()) < size
    rows = read_log(last / "train.csv")
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_killed_run_of_an_adapter_ends_with_the_same_bits(
    adapted: Job, ema_decay: float | None, tmp_path: Path
) -> None:
    p = optimizer(ema_decay=ema_decay)
    whole = contents(train_from(adapted, tmp_path / "whole", range(4), p))
    with pytest.raises(KeyboardInterrupt):
        train_from(adapted, tmp_path / "killed", range(4), p, fail_before=3)
    assert contents(train_from(adapted, tmp_path / "killed", range(4), p)) == whole


# Moving averages of the weights


def test_the_published_model_is_the_average_of_the_raw_weights(job: Job, tmp_path: Path) -> None:
    """The raw weights are the same as without an average."""
    steps = [
        load_file(train_from(job, tmp_path / str(n), range(n), optimizer()) / "model/model.safetensors")
        for n in (1, 2, 3)
    ]
    last = train_from(job, tmp_path / "averaged", range(3), optimizer(ema_decay=0.6))
    averages, own = load_file(last / "model/model.safetensors"), torch.load(last / "optimizer.pt", weights_only=True)
    for name, average in averages.items():
        weighed = sum(share * step[name].double() for share, step in zip((0.36, 0.6, 1.0), steps, strict=True)) / 1.96
        assert (average - weighed).abs().max() < 1e-6
        assert torch.equal(own["average"]["weights"][name], steps[-1][name])
    assert any((average - steps[-1][name]).abs().max() > 1e-3 for name, average in averages.items())


def test_a_killed_run_with_an_average_ends_with_the_same_bits(job: Job, tmp_path: Path) -> None:
    p = optimizer(ema_decay=0.6)
    whole = contents(train_from(job, tmp_path / "whole", range(4), p))
    with pytest.raises(KeyboardInterrupt):
        train_from(job, tmp_path / "killed", range(4), p, fail_before=3)
    assert contents(train_from(job, tmp_path / "killed", range(4), p)) == whole


# Rounds


@pytest.mark.parametrize("ema_decay", [None, 0.8])
def test_two_rounds_equal_one_run_for_the_optimizer(job: Job, ema_decay: float | None, tmp_path: Path) -> None:
    """Six steps over the same windows, in one round or two, give the same bits."""
    p, batches = optimizer(ema_decay=ema_decay), list(windows(job, range(6)))

    def part(scratch: Path, model: Path, moments: Path | None, steps: range) -> Path:
        run = training_run(model, steps, optimizer=p, optimizer_state=moments)
        loaded, state = open_run(run, scratch)
        take_steps(loaded, iter(batches[steps.start : steps.stop]), state, run, scratch)
        return checkpoints(scratch)[-1]

    whole = part(tmp_path / "whole", job.student, None, range(6))
    first = part(tmp_path / "first", job.student, None, range(3))
    second = part(tmp_path / "second", first / "model", first / "optimizer.pt", range(3, 6))
    forgetful = part(tmp_path / "forgetful", first / "model", None, range(3, 6))
    assert contents(second)[:2] == contents(whole)[:2]
    assert contents(forgetful)[0] != contents(whole)[0]
    rows = [*read_log(first / "train.csv"), *read_log(second / "train.csv")]
    assert rows == read_log(whole / "train.csv")


def test_a_new_round_uses_its_own_settings_with_the_saved_moments(job: Job, tmp_path: Path) -> None:
    before = train_from(job, tmp_path / "first", range(2), optimizer())
    changed = optimizer(adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=1e-4, weight_decay=0.3, learning_rate=5e-3)
    state = make_state(lm.load_model(before / "model"), changed, previous=before / "optimizer.pt")
    settings = [(group["betas"], group["eps"], group["weight_decay"]) for group in state.optimizer.param_groups]
    assert settings == [((0.5, 0.6), 1e-4, 0.3), ((0.5, 0.6), 1e-4, 0.0)]  # norms do not decay
    origin = {"start": before / "model", "optimizer_state": before / "optimizer.pt"}
    after = train_from(job, tmp_path / "second", range(8, 9), changed, **origin)
    assert read_log(after / "train.csv")[0]["learning_rate"] == 5e-3


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("constant_with_warmup", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, *((9 - step) / 7 for step in range(3, 10))]),
        ("cosine", [1 / 3, 2 / 3, 1, *((1 + np.cos(np.pi * (step - 2) / 7)) / 2 for step in range(3, 10))]),
    ],
)
def test_the_schedule_follows_the_global_step(job: Job, kind: Any, rates: list[float], tmp_path: Path) -> None:
    p = optimizer(lr_scheduler_type=kind)
    whole = train_from(job, tmp_path / "whole", range(10), p)
    late = train_from(job, tmp_path / "late", range(7, 9), p)
    logged = [[row["learning_rate"] for row in read_log(folder / "train.csv")] for folder in (whole, late)]
    assert logged[0] == pytest.approx([1e-2 * rate for rate in rates], abs=1e-12)
    other = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=p.learning_rate)
    theirs = transformers.get_scheduler(kind, other, p.warmup_steps, p.decay_steps)
    for rate in logged[0]:  # transformers' first step has the rate 0, ours that of its second
        other.step()
        theirs.step()
        assert rate == theirs.get_last_lr()[0]
    assert logged[1] == logged[0][7:9]


# The log


def test_the_log_describes_each_step(job: Job, uninterrupted: Path) -> None:
    rows = read_log(uninterrupted / "train.csv")
    assert [row["step"] for row in rows] == [5, 6, 7, 8, 9, 10]
    for row, window in zip(rows, windows(job, range(4, 10)), strict=True):
        assert row["tokens"] == sum(len(ids) for batch in window for ids in batch.completion_ids)
        prompts = [{tuple(ids) for ids in batch.prompt_ids} for batch in window]
        assert row["read_tokens"] == row["tokens"] + sum(len(ids) for micro_batch in prompts for ids in micro_batch)
        assert row["own_share"] == sum(batch.on_policy_B.sum() for batch in window) / 6
        assert 0 < row["teacher_tail"] < 1
        assert (row["student"], row["round"]) == ("s", "r1")
        own = [sequence for batch in window for sequence in zip(batch.completion_ids, batch.on_policy_B, strict=True)]
        assert row["compared_tokens"] == sum(len(ids) for ids, is_own in own if is_own)
        ended = [bool(flag) for batch in window for flag in batch.finished_B[batch.on_policy_B]]
        assert row["truncated_share"] == pytest.approx(1 - sum(ended) / len(ended))
    first, last = rows[0], rows[-1]
    assert first["staleness_kl"] < last["staleness_kl"]
    assert first["effective_share"] > last["effective_share"]
    assert first["clipped_share"] < last["clipped_share"]


# The whole


def test_a_student_gets_much_closer_to_its_teacher(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    """The dense divergence falls on the rollouts of training and on new rollouts of the trained student.

    The teacher's weights are small, so that it is a smooth function of its context: one with large weights is learnt
    by heart and not further, from stored scores and from the live teacher alike (forward KL on new rollouts after
    200 steps of either: 2.4, from 2.1).
    """
    job = make_job(make_model_dir, tmp_path, samples=8, tokens=16, teacher_range=0.1, dropout=0.0)
    p = optimizer(lr_scheduler_type="cosine", decay_steps=200, save_steps=200)
    trained = train_from(job, tmp_path / "scratch", range(200), p, micro=6) / "model"

    def distance(student: Path, rollouts: Sequence[Rollout]) -> dict[str, float]:
        p = evaluation_params(prompts=12, batch_size=12, max_new_tokens=16, recorded_prompts=0)
        texts = [
            Sampled(
                token_ids=rollout.completion_ids,
                logp=[],
                support_ids=[],
                tail_sample_ids=[],
                tail_offset=[],
                finished=rollout.finished,
            )
            for rollout in rollouts
        ]
        prompts = [prompt_of(rollout) for rollout in rollouts]
        models = ModelPair(student=student, teacher=job.teacher, vocab_size=VOCAB)
        return concatenate(compare(models, prompts, texts, p, title="compare")).means()

    for before, after in (
        [distance(model, job.own.rollouts) for model in (job.student, trained)],
        [distance(model, written_by(model, 8, tokens=16, seed=1)) for model in (job.student, trained)],
    ):
        assert after["forward_kl"] < before["forward_kl"] / 5
        assert after["reverse_kl"] < before["reverse_kl"] / 5
        assert after["top1_agreement"] > before["top1_agreement"] + 0.3
