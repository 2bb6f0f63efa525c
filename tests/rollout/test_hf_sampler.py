"""Conformance of every engine with plain transformers, on tiny random models in float32."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.core.hashing import model_fingerprint
from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision, Scores, TokenSequence
from pipeline.models import language_model as lm
from pipeline.models.architectures import auto_class, untie_head
from pipeline.rollout import hf_sampler
from pipeline.rollout.hf_sampler import HFSampler, nucleus, sample_next_token, sample_tail_tokens
from pipeline.rollout.sampler import Sampled, Sampler
from pipeline.runtime.errors import DataError, ModelError
from pipeline.scoring.hf_scorer import HFScorer, scorer_fingerprint
from pipeline.scoring.scorer import TruncationParams
from tests.scores import arrays_of

VOCAB = 260
MANY_ENDS = list(range(200, 230))  # with so many end tokens, completions stop at all lengths
PROMPTS = [[256, 5, 9, 31], [256], [256, 7, 7, 7, 80, 12, 3, 99], [1, 2, 3], [256, 60, 61]]
_CAPABILITY = torch.backends.cpu.get_cpu_capability()
NAMES = [f"s{index}" for index in range(len(PROMPTS))]

SAMPLERS = {"hf": HFSampler}
SCORERS = {"hf": HFScorer}
every_sampler = pytest.mark.parametrize("engine", list(SAMPLERS))
every_scorer = pytest.mark.parametrize("engine", list(SCORERS))

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_IDS = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
_FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_SIZES, **_IDS),
    "mistral": lambda: transformers.MistralConfig(**_SIZES, **_IDS, sliding_window=5),
    "gemma2": lambda: transformers.Gemma2Config(**_SIZES, **_IDS, sliding_window=5),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, **_IDS
    ),
    "t5": lambda: transformers.T5Config(**_T5, initializer_factor=2.0),
    "t5-untied": lambda: transformers.T5Config(**_T5, tie_word_embeddings=False),
    "bart": lambda: transformers.BartConfig(**_BART, **_IDS, forced_eos_token_id=None),
    "pegasus": lambda: transformers.PegasusConfig(**_BART, **_IDS, forced_eos_token_id=None),
}
_T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 257,
    "eos_token_id": 257,
    "decoder_start_token_id": 257,
}
_BART = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "decoder_start_token_id": 257,
}


@pytest.fixture(scope="module", params=list(_FAMILIES))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of each family."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp(request.param)
    config = _FAMILIES[request.param]()
    made = auto_class(config).from_config(config)
    (untie_head(made) if request.param == "t5-untied" else made).save_pretrained(folder)
    return folder


def sampler(engine: str, path: Path, *, eos: Sequence[int] = MANY_ENDS, seed: int = 0, vocab: int = VOCAB) -> Sampler:
    return SAMPLERS[engine](path, precision="float32", vocab=vocab, eos_ids=eos, seed=seed)


def sampling(**changes: Any) -> Sampling:
    settings = {"max_new_tokens": 20, "temperature": 1.0, "top_p": 1.0, "record_threshold": 0.02, "record_max": 8}
    settings |= {"record_tail_samples": 6}
    return Sampling(**(settings | changes))


_loaded = functools.cache(lm.load_model)


@torch.inference_mode()
def logits_of(path: Path, prompt: list[int], completion: list[int]) -> Tensor:
    """Those of the completion tokens [T, V], from one pass of the whole model."""
    model = _loaded(path)
    if model.config.is_encoder_decoder:
        shifted = torch.tensor([[model.config.decoder_start_token_id, *completion[:-1]]])
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=shifted).logits[0, :, :VOCAB]  # type: ignore[no-any-return]
    logits_SV = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    taken: Tensor = logits_SV[len(prompt) - 1 : -1, :VOCAB]
    return taken


def tokens(sampled: Sequence[Sampled]) -> list[list[int]]:
    return [sample.token_ids for sample in sampled]


# Samplers


@every_sampler
def test_greedy_is_what_generate_writes(engine: str, path: Path) -> None:
    actual = sampler(engine, path).sample(PROMPTS, NAMES, sampling(temperature=0.0))
    model = lm.load_model(path)
    for prompt, sample in zip(PROMPTS, actual, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, eos_token_id=MANY_ENDS
        )
        assert sample.token_ids == expected[0, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()


@every_sampler
def test_a_completion_does_not_depend_on_its_batch(engine: str, path: Path) -> None:
    """Neither on its company, nor on the order, nor on the rows that end before it."""
    one_by_one = sampler(engine, path)
    together = one_by_one.sample(PROMPTS, NAMES, sampling())
    alone = [one_by_one.sample([prompt], [name], sampling())[0] for prompt, name in zip(PROMPTS, NAMES, strict=True)]
    turned = one_by_one.sample(PROMPTS[::-1], NAMES[::-1], sampling())[::-1]
    assert tokens(together) == tokens(alone) == tokens(turned)
    assert len({len(ids) for ids in tokens(together)}) > 1
    for first, other in zip(together, alone, strict=True):
        assert first.logp == pytest.approx(other.logp, abs=1e-4)


@every_sampler
def test_completions_of_one_prompt_are_those_it_would_get_alone(engine: str, path: Path) -> None:
    made, prompts = sampler(engine, path), [PROMPTS[i] for i in (2, 0, 2, 2, 4, 0)]
    names = [f"n{index}" for index in range(6)]
    together = made.sample(prompts, names, sampling())
    alone = [made.sample([prompt], [name], sampling())[0] for prompt, name in zip(prompts, names, strict=True)]
    assert tokens(together) == tokens(alone)
    assert tokens(together)[0] != tokens(together)[2]


@every_sampler
def test_each_completion_may_be_drawn_in_its_own_way(engine: str, teacher_dir: Path) -> None:
    """With limits of their own, whoever ends first."""
    made = sampler(engine, teacher_dir)
    options = [
        sampling(max_new_tokens=n, temperature=t) for n, t in [(20, 1.0), (5, 0.0), (20, 0.0), (1, 1.0), (9, 0.7)]
    ]
    together = made.sample(PROMPTS, NAMES, options)
    alone = [
        made.sample([prompt], [name], option)[0] for prompt, name, option in zip(PROMPTS, NAMES, options, strict=True)
    ]
    assert tokens(together) == tokens(alone)
    assert [sample.finished for sample in together] == [sample.finished for sample in alone]
    assert all(len(ids) <= option.max_new_tokens for ids, option in zip(tokens(together), options, strict=True))


@every_sampler
@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 1.0), (1.7, 1.0), (1.0, 0.7), (0.8, 0.5)])
def test_behaviour_is_the_distribution_that_was_sampled(
    engine: str, path: Path, temperature: float, top_p: float
) -> None:
    actual = sampler(engine, path).sample(PROMPTS, NAMES, sampling(temperature=temperature, top_p=top_p))
    for prompt, sample in zip(PROMPTS, actual, strict=True):
        logp_TV = (logits_of(path, prompt, sample.token_ids) / temperature).log_softmax(-1)
        for logp_V, token, logp in zip(logp_TV, sample.token_ids, sample.logp, strict=True):
            ordered = sorted(logp_V.exp().tolist(), reverse=True)
            size = int((np.cumsum([0.0, *ordered[:-1]]) < top_p).sum())
            kept = sum(ordered[:size])
            assert logp == pytest.approx(logp_V[token].item() - np.log(kept), abs=1e-4)


@every_sampler
def test_support_is_what_exceeds_the_threshold_at_temperature_one(engine: str, path: Path) -> None:
    p = sampling(temperature=0.7, top_p=0.9)
    actual = sampler(engine, path).sample(PROMPTS, NAMES, p)
    sizes = set()
    for prompt, sample in zip(PROMPTS, actual, strict=True):
        for p_V, ids in zip(logits_of(path, prompt, sample.token_ids).softmax(-1), sample.support_ids, strict=True):
            expected = p_V.argsort(descending=True)[: p.record_max]
            assert ids == [int(token) for token in expected if p_V[token] > p.record_threshold]
            sizes.add(len(ids))
    assert len(sizes) > 1
    bare = sampler(engine, path).sample(PROMPTS, NAMES, replace(p, record_max=0))
    assert all(ids == [] for sample in bare for ids in sample.support_ids)
    assert tokens(bare) == tokens(actual)


@every_sampler
def test_tail_draws_come_from_what_is_not_recorded_as_likely(engine: str, path: Path) -> None:
    """And do not change what is written, nor depend on the batch."""
    actual = sampler(engine, path).sample(PROMPTS, NAMES, sampling())
    for sample in actual:
        assert [len(ids) for ids in sample.tail_sample_ids] == [6] * len(sample.token_ids)
        pairs = zip(sample.support_ids, sample.tail_sample_ids, strict=True)
        assert not any(set(likely) & set(drawn) for likely, drawn in pairs)
    bare = sampler(engine, path).sample(PROMPTS, NAMES, sampling(record_tail_samples=0))
    assert tokens(bare) == tokens(actual)
    assert all(ids == [] for sample in bare for ids in sample.tail_sample_ids)
    (alone,) = sampler(engine, path).sample(PROMPTS[-1:], NAMES[-1:], sampling())
    assert alone.tail_sample_ids == actual[-1].tail_sample_ids


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), named=st.lists(st.integers(0, 9), max_size=9, unique=True))
def test_a_tail_draw_follows_the_sampler_without_its_likely_tokens(seed: int, named: list[int]) -> None:
    """Each of the m is distributed as the rest is, together they count a token as often as that but for less than
    one, and the offset is 0 on average and makes the mean of the author's own log-prob exact."""
    logits_BV = torch.randn(1, 10, generator=torch.Generator().manual_seed(seed))
    q_V = logits_BV[0].double().exp()
    q_V[named] = 0
    q_V /= q_V.sum()
    counts, offsets, p = torch.zeros(10), [], sampling(record_tail_samples=6)
    for uniform in (np.arange(100) + 0.5) / 100:
        (drawn,), (offset,) = sample_tail_tokens(logits_BV, logits_BV.softmax(-1), [named], np.array([uniform]), p)
        once = torch.bincount(torch.tensor(drawn), minlength=10)
        assert ((once - 6 * q_V).abs() < 1 + 1e-5).all()
        assert q_V[drawn].log().mean() + offset == pytest.approx(-torch.special.entr(q_V).sum().item(), abs=1e-5)
        counts += once
        offsets.append(offset)
    assert (counts / 600 - q_V).abs().max() < 1 / 100
    assert np.mean(offsets) == pytest.approx(0, abs=0.1)


def test_nothing_left_is_no_draw() -> None:
    logits_BV = torch.zeros(2, 3)
    named, p = [[0, 1, 2], [0, 1]], sampling(record_tail_samples=2)
    actual = sample_tail_tokens(logits_BV, logits_BV.softmax(-1), named, np.array([0.3, 0.3]), p)
    assert actual == ([[], [2, 2]], [0.0, 0.0])


@every_sampler
def test_a_completion_ends_with_its_first_end_token_or_is_cut(engine: str, path: Path) -> None:
    actual = sampler(engine, path).sample(PROMPTS * 4, [f"e{index}" for index in range(20)], sampling())
    assert {sample.finished for sample in actual} == {True, False}
    for sample in actual:
        assert [token in MANY_ENDS for token in sample.token_ids] == [False] * (len(sample.token_ids) - 1) + [
            sample.finished
        ]
        assert sample.finished or len(sample.token_ids) == 20
        assert len(sample.token_ids) == len(sample.logp) == len(sample.support_ids)
        assert len(sample.tail_sample_ids) == len(sample.tail_offset) == len(sample.token_ids)


@every_sampler
def test_seed_and_sample_id_choose_the_completion(engine: str, teacher_dir: Path) -> None:
    first, again = (sampler(engine, teacher_dir, eos=[257]) for _ in range(2))
    other = sampler(engine, teacher_dir, eos=[257], seed=1)
    base, same = (policy.sample(PROMPTS[:1], ["a"], sampling()) for policy in (first, again))
    assert tokens(base) == tokens(same)
    assert tokens(base) != tokens(first.sample(PROMPTS[:1], ["b"], sampling()))
    assert tokens(base) != tokens(other.sample(PROMPTS[:1], ["a"], sampling()))


@every_sampler
def test_ids_beyond_the_tokenizer_are_never_written(engine: str, teacher_dir: Path) -> None:
    actual = sampler(engine, teacher_dir, eos=[9], vocab=10).sample(PROMPTS, NAMES, sampling())
    assert max(token for ids in tokens(actual) for token in ids) < 10
    assert max(token for sample in actual for ids in sample.support_ids for token in ids) < 10


@every_sampler
def test_sampler_refuses_what_does_not_fit(engine: str, teacher_dir: Path) -> None:
    with pytest.raises(DataError, match="expected at most 512 tokens of prompt and completion"):
        sampler(engine, teacher_dir).sample([[1] * 500], ["a"], sampling())
    with pytest.raises(ModelError, match="expected a head of at least 261 tokens"):
        sampler(engine, teacher_dir, vocab=261)


def test_a_draw_inverts_the_cumulative_distribution() -> None:
    """Evenly spaced uniforms give every token its share, to one draw; a token of probability 0 is never taken."""
    p_V = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    uniform_B = (np.arange(1000) + 0.5) / 1000
    tokens_B, logp_B = sample_next_token(p_V.log().expand(1000, -1), p_V.expand(1000, -1), uniform_B, sampling())
    counts = np.bincount(tokens_B.numpy(), minlength=6)
    assert np.abs(counts - 1000 * p_V.numpy()).max() <= 1
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]
    assert logp_B.exp().numpy() == pytest.approx(p_V[tokens_B].numpy())
    edges, _ = sample_next_token(p_V.log().expand(2, -1), p_V.expand(2, -1), np.array([0.0, 1 - 2.0**-53]), sampling())
    assert edges.tolist() == [1, 4]


@pytest.mark.parametrize(
    "top_p, kept", [(0.01, [1]), (0.49, [1]), (0.51, [1, 3]), (0.79, [1, 3]), (0.96, [0, 1, 2, 3])]
)
def test_the_nucleus_is_the_smallest_set_with_enough_mass(top_p: float, kept: list[int]) -> None:
    p_V = torch.tensor([0.15, 0.5, 0.05, 0.3])
    found_V = nucleus(p_V[None], top_p)[0]
    assert found_V.nonzero()[:, 0].tolist() == kept
    assert found_V[kept].tolist() == pytest.approx((p_V[kept] / p_V[kept].sum()).tolist(), rel=1e-5)


# Scorers


def support(**changes: Any) -> TruncationParams:
    settings = {"threshold": 0.02, "max_entries": 30, "samples_per_tail": 8.0, "min_tail": 0.01, "temperatures": (1.0,)}
    return TruncationParams(**(settings | changes))


def to_score() -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    completions = [rng.integers(0, VOCAB, length).tolist() for length in (7, 1, 12, 3, 7)]
    completions[0][2:4] = [257, 257]  # pad and eos, inside
    return [
        TokenSequence(
            prompt_ids=prompt,
            completion_ids=ids,
            support_ids=[[1, 2, 3]] * len(ids),
            tail_sample_ids=[],
            tail_offset=[],
        )
        for prompt, ids in zip(PROMPTS, completions, strict=True)
    ]


def score(
    engine: str,
    path: Path,
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int = 1,
    precision: Precision = "float32",
) -> list[Scores]:
    made = SCORERS[engine](path, precision=precision, vocab=VOCAB, truncation=support(), batch_size=batch_size)
    return made.score(sequences, lambda count: None)


def bits(scores: Scores) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in arrays_of(scores).items()}


@every_scorer
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_those_of_a_plain_pass(engine: str, path: Path, batch_size: int) -> None:
    sequences = to_score()
    for sequence, actual in zip(sequences, score(engine, path, sequences, batch_size=batch_size), strict=True):
        logp_TV = logits_of(path, sequence.prompt_ids, sequence.completion_ids).log_softmax(-1)
        positions = range(len(sequence.completion_ids))
        assert actual.stats.token_logp_N == pytest.approx(logp_TV[positions, sequence.completion_ids].numpy(), abs=1e-4)
        owner = np.repeat(positions, actual.top.counts)
        assert actual.top.logp == pytest.approx(logp_TV[owner, actual.top.ids].numpy(), abs=1e-4)
        named = np.repeat(positions, actual.student.counts)
        assert actual.student.logp == pytest.approx(logp_TV[named, actual.student.ids].numpy(), abs=1e-4)


@every_scorer
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_of_one_gives_the_same_bits_in_any_company(
    engine: str, teacher_dir: Path, precision: Precision
) -> None:
    sequences = to_score()
    forward = score(engine, teacher_dir, sequences, precision=precision)
    backward = score(engine, teacher_dir, sequences[::-1], precision=precision)[::-1]
    alone = [score(engine, teacher_dir, [sequence], precision=precision)[0] for sequence in sequences]
    for first, other, third in zip(forward, backward, alone, strict=True):
        assert bits(first) == bits(other) == bits(third)


@every_scorer
@pytest.mark.xfail(
    _CAPABILITY != "AVX2",
    reason="holds on one AVX-512 processor too; others may add up a row in another order beside others",
    strict=False,
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_decoder_that_sees_all_gives_the_same_bits_in_any_batch(
    engine: str, teacher_dir: Path, precision: Precision
) -> None:
    """Of any size, in any company and order."""
    sequences = [*to_score(), *(replace(sequence, prompt_ids=PROMPTS[1]) for sequence in to_score())]
    if _CAPABILITY != "AVX2":  # lengths that tell vectors of 8 floats from those of 16
        longer = [[256, *range(length)] for length in (10, 20, 27, 35, 43)]
        sequences += [replace(sequence, prompt_ids=prompt) for sequence, prompt in zip(to_score(), longer, strict=True)]
    alone = [score(engine, teacher_dir, [sequence], precision=precision)[0] for sequence in sequences]
    for batch_size in (2, 3, 5, 16):
        forward = score(engine, teacher_dir, sequences, batch_size=batch_size, precision=precision)
        backward = score(engine, teacher_dir, sequences[::-1], batch_size=batch_size, precision=precision)[::-1]
        for first, other, third in zip(alone, forward, backward, strict=True):
            assert bits(first) == bits(other) == bits(third)


@every_scorer
def test_completions_of_one_prompt_get_the_bits_they_get_alone(engine: str, path: Path) -> None:
    """So a prompt may be read once for all of them."""
    first, second, third = (replace(sequence, prompt_ids=PROMPTS[2]) for sequence in to_score()[:3])
    other = to_score()[3]
    alone = [score(engine, path, [sequence])[0] for sequence in (first, second, third)]
    for order in ([first, second, third, other], [first, other, second, third]):
        actual = score(engine, path, order)
        assert [bits(actual[order.index(sequence)]) for sequence in (first, second, third)] == [
            bits(scores) for scores in alone
        ]


@every_scorer
def test_draws_belong_to_the_sequence_and_not_to_the_batch(engine: str, teacher_dir: Path) -> None:
    sequences = to_score()
    apart, together = (score(engine, teacher_dir, sequences, batch_size=size) for size in (1, 5))
    drawn = [[score.tail_samples.ids.tolist() for score in scores] for scores in (apart, together)]
    assert drawn[0] == drawn[1]
    assert sum(map(len, drawn[0])) > 30


@every_scorer
def test_prompt_and_completion_both_seed_the_draws(
    engine: str, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """A teacher with next to no weights is uniform everywhere, so that only the seed can tell sequences apart."""
    teacher = make_model_dir(tmp_path / "flat", initializer_range=1e-30)
    base = to_score()[0]
    others = [replace(base, prompt_ids=[256, 5, 9, 32]), replace(base, completion_ids=[*base.completion_ids[:-1], 3])]
    drawn = [scores.tail_samples.ids[:8].tolist() for scores in score(engine, teacher, [base, base, *others])]
    assert drawn[0] == drawn[1]
    assert drawn[0] not in drawn[2:]


@every_scorer
def test_progress_hears_every_token_once(engine: str, teacher_dir: Path) -> None:
    heard: list[int] = []
    made = SCORERS[engine](teacher_dir, precision="float32", vocab=VOCAB, truncation=support(), batch_size=2)
    made.score(to_score(), heard.append)
    assert heard == [4 + 1, 7 + 1, 8 + 3, 12 + 3, 3, 7]
    heard.clear()
    made.score([replace(sequence, prompt_ids=PROMPTS[0]) for sequence in to_score()], heard.append)
    assert heard == [4, 7 + 1, 12 + 3, 7]


@every_scorer
def test_scorer_refuses_what_does_not_fit(engine: str, teacher_dir: Path) -> None:
    long = TokenSequence(
        prompt_ids=[1] * 500, completion_ids=[1] * 13, support_ids=[], tail_sample_ids=[], tail_offset=[]
    )
    with pytest.raises(DataError, match="scoring: expected at most 512 tokens"):
        score(engine, teacher_dir, [long])
    with pytest.raises(ModelError, match="expected a head of at least 261 tokens"):
        SCORERS[engine](teacher_dir, precision="float32", vocab=261, truncation=support(), batch_size=1)


def test_scorer_fingerprint_follows_teacher_dtype_and_support() -> None:
    base = support()
    variants = [
        scorer_fingerprint("a", precision="float32", truncation=base),
        scorer_fingerprint("b", precision="float32", truncation=base),
        scorer_fingerprint("a", precision="bfloat16", truncation=base),
        *(
            scorer_fingerprint("a", precision="float32", truncation=support(**{name: value}))
            for name, value in [("threshold", 0.1), ("max_entries", 3), ("samples_per_tail", 1.0), ("min_tail", 0.5)]
        ),
        scorer_fingerprint("a", precision="float32", truncation=support(temperatures=(1.0, 2.0))),
    ]
    assert len(set(variants)) == len(variants)
    assert scorer_fingerprint("a", precision="float32", truncation=support()) == variants[0]
    resolved = "bfloat16" if lm.resolve_dtype("auto") == torch.bfloat16 else "float32"
    auto, named = (scorer_fingerprint("a", precision=p, truncation=base) for p in ("auto", resolved))  # type: ignore[arg-type]
    assert auto == named


@every_sampler
def test_sampler_fingerprint_is_the_models(engine: str, teacher_dir: Path, student_dir: Path) -> None:
    assert sampler(engine, teacher_dir).fingerprint == model_fingerprint(teacher_dir)
    assert sampler(engine, teacher_dir).fingerprint != sampler(engine, student_dir).fingerprint


def test_a_model_is_hashed_only_for_a_fingerprint(teacher_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation samples, and needs no fingerprint."""
    hashed: list[Path] = []
    monkeypatch.setattr(hf_sampler, "model_fingerprint", lambda path: str(hashed.append(path)))
    made = sampler("hf", teacher_dir)
    made.sample(PROMPTS[:1], NAMES[:1], sampling(max_new_tokens=2))
    assert hashed == []
    assert made.fingerprint == made.fingerprint
    assert hashed == [teacher_dir]
