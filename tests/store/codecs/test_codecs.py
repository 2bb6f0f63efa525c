"""Conformance of every registered codec, and the bytes of each."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.core.types import Entries, PositionStats, Scores
from pipeline.runtime.errors import StoreError
from pipeline.store.codecs import CODECS, Codec, ErrorBounds, build_codec, config_of, stored_fingerprint
from pipeline.store.codecs.base import LOWEST_TAIL_MEAN, SMALL_P
from pipeline.store.codecs.sqrt8 import Sqrt8
from pipeline.store.manifest import decode_manifest
from pipeline.store.ragged import ENTRIES, join_scores
from schemas.manifest import Manifest, Measured
from schemas.segment import PAYLOAD
from tests.scores import arrays_of, entries

codecs = pytest.mark.parametrize("codec", [pytest.param(codec, id=name) for name, codec in CODECS.items()])


def _random_scores(seed: int, positions: int, vocab: int, temperatures: int) -> Scores:
    """Return any scores that the record allows: no top tokens, repeated tail samples, masses of exactly 0 and 1."""
    rng = np.random.default_rng(seed)
    groups: dict[str, list[NDArray[np.int64]]] = {"top": [], "tail_samples": [], "student": []}
    for _ in range(positions):
        chosen = rng.permutation(vocab)[: rng.integers(0, min(vocab, 12))]
        cut = int(rng.integers(0, len(chosen) + 1))
        groups["top"].append(chosen[:cut])
        groups["student"].append(chosen[cut:])
        groups["tail_samples"].append(rng.integers(0, vocab, rng.integers(0, 5)))
    tail_NH = rng.choice([0.0, 1.0, 1e-12, 0.3, 0.004], size=(positions, temperatures))
    lse_NH = rng.normal(size=(positions, temperatures)) * (np.arange(temperatures) > 0)
    of_group = {name: entries(rows, -rng.exponential(4, sum(map(len, rows)))) for name, rows in groups.items()}
    stats = PositionStats(
        tail_NH=tail_NH.astype(np.float32),
        student_tail_NH=(tail_NH * rng.random((positions, temperatures))).astype(np.float32),
        lse_NH=lse_NH.astype(np.float32),
        token_logp_N=-rng.exponential(4, positions).astype(np.float32),
        entropy_NH=rng.choice([0.0, 1e-5, 0.4, 2.0, 10.8], size=(positions, temperatures)).astype(np.float32),
        stored_only_because_sampled_N=rng.random(positions) < 0.3,
        tail_mean_N=rng.choice([np.nan, 0.0, -0.3, -13.1, -63.5, -70.0, -np.inf], size=positions).astype(np.float32),
    )
    return Scores(**of_group, stats=stats)


def _permutation(vocab: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    token_of_rank = np.random.default_rng(7).permutation(vocab)
    return token_of_rank, np.argsort(token_of_rank)


def _by_token(entries: Entries) -> list[list[tuple[int, float]]]:
    ends = np.cumsum(entries.counts)
    return [
        sorted(zip(entries.ids[end - n : end].tolist(), entries.logp[end - n : end].tolist(), strict=True))
        for end, n in zip(ends.tolist(), entries.counts.tolist(), strict=True)
    ]


def _in_bounds(codec: Codec, p: NDArray[np.float64], got: NDArray[np.float64]) -> None:
    bounds = codec.bounds
    assert (np.abs(np.sqrt(p) - np.sqrt(got)) <= bounds.sqrt_p).all()
    kept = p >= bounds.floor_p
    error = np.abs(np.log(p[kept]) - np.log(got[kept]))
    assert (error <= np.where(p[kept] < bounds.small_p, bounds.log_p_small, bounds.log_p)).all()


seeds = st.integers(0, 2**32 - 1)


@codecs
@settings(max_examples=40)
@given(
    seed=seeds, positions=st.integers(0, 9), vocab=st.sampled_from([2, 300, 65536, 65537, 152064]), h=st.integers(1, 3)
)
def test_round_trip(codec: Codec, seed: int, positions: int, vocab: int, h: int) -> None:
    scores = _random_scores(seed, positions, vocab, h)
    token_of_rank, rank_of_token = _permutation(vocab)
    arrays = codec.encode(scores, rank_of_token)
    got = codec.decode(arrays, token_of_rank)

    assert ("lse" in arrays) == (h > 1)
    rows = {"E": "head", "R": "draw", "U": "union"}
    for name, array in arrays.items():
        kind = PAYLOAD[name]
        assert array.dtype.name in kind.dtypes
        assert array.dtype.name != ("uint32" if vocab <= 65536 else "uint16") or name.endswith("_n")
        assert len(array) == (arrays[f"{rows[kind.axes]}_n"].sum() if kind.axes in rows else positions)
    for group in ENTRIES:
        assert getattr(got, group).counts.tolist() == getattr(scores, group).counts.tolist()
        before, after = (_by_token(getattr(either, group)) for either in (scores, got))
        assert [[token for token, _ in row] for row in after] == [[token for token, _ in row] for row in before]
        if group != "tail_samples" or not codec.bounds.draws_estimated:
            p, q = (np.exp([logp for row in rows for _, logp in row]) for rows in (before, after))
            _in_bounds(codec, p, q)
    for name in ("tail_NH", "student_tail_NH"):
        mass, back = (getattr(either.stats, name).astype(np.float64) for either in (scores, got))
        assert ((mass == 0) == (back == 0)).all()
        _in_bounds(codec, mass[mass > 0], back[mass > 0])
    assert (got.stats.lse_NH == scores.stats.lse_NH).all()
    assert (got.stats.stored_only_because_sampled_N == scores.stats.stored_only_because_sampled_N).all()
    assert (np.abs(np.sqrt(got.stats.entropy_NH) - np.sqrt(scores.stats.entropy_NH)) <= codec.bounds.sqrt_entropy).all()
    none_N = np.isnan(scores.stats.tail_mean_N)
    assert (np.isnan(got.stats.tail_mean_N) == none_N).all()
    g_N = np.maximum(scores.stats.tail_mean_N[~none_N], LOWEST_TAIL_MEAN)
    assert (np.abs(got.stats.tail_mean_N[~none_N] - g_N) <= codec.bounds.tail_g).all()
    _in_bounds(codec, *(np.exp(exact.stats.token_logp_N.astype(np.float64)) for exact in (scores, got)))
    before_and_after = zip(arrays_of(scores).values(), arrays_of(got).values(), strict=True)
    assert all(either.dtype == other.dtype for either, other in before_and_after)

    again = codec.encode(got, rank_of_token)
    for name, array in arrays.items():
        assert again[name].tobytes() == array.tobytes(), name


@codecs
@settings(max_examples=20)
@given(seed=seeds, cuts=st.lists(st.integers(0, 6), max_size=5))
def test_joining_and_windows_change_nothing(codec: Codec, seed: int, cuts: list[int]) -> None:
    _, rank_of_token = _permutation(300)
    parts = [_random_scores(seed + i, positions, 300, 2) for i, positions in enumerate(cuts)]
    together = codec.encode(join_scores(parts, 2), rank_of_token)
    apart = [codec.encode(part, rank_of_token) for part in parts]
    for name, array in together.items():
        assert array.tobytes() == b"".join(part[name].tobytes() for part in apart)


@codecs
@settings(max_examples=200)
@given(logp=st.lists(st.floats(-150, 0, width=32), min_size=1, max_size=20))
def test_probabilities_stay_within_bounds(codec: Codec, logp: list[float]) -> None:
    values = np.array(logp, dtype=np.float32)
    got = _through(codec, values)
    _in_bounds(codec, np.exp(values.astype(np.float64)), np.exp(got.astype(np.float64)))
    assert np.array_equal(_through(codec, got), got)
    assert (np.diff(got[np.argsort(values, kind="stable")]) >= 0).all()


def _through(codec: Codec, logp: NDArray[np.float32]) -> NDArray[np.float32]:
    """Encode and decode log-probs as the top tokens of one position."""
    n = len(logp)
    scores = _one_position(ids=list(range(n)), logp=logp.tolist())
    ranks = np.arange(max(n, 2))
    got = codec.decode(codec.encode(scores, ranks), ranks)
    return got.top.logp[np.argsort(got.top.ids)]


def _one_position(
    *,
    ids: list[int],
    logp: list[float],
    tail_samples: tuple[int, ...] = (),
    student: tuple[int, ...] = (),
    tail: float = 0.0,
    student_tail: float = 0.0,
    token_logp: float = 0.0,
    entropy: float = 0.0,
    stored_only_because_sampled: bool = False,
    tail_mean: float = math.nan,
) -> Scores:
    def floats(values: object) -> NDArray[np.float32]:
        return np.array(values, np.float32)

    stats = PositionStats(
        tail_NH=floats([[tail]]),
        student_tail_NH=floats([[student_tail]]),
        lse_NH=floats([[0.0]]),
        token_logp_N=floats([token_logp]),
        entropy_NH=floats([[entropy]]),
        stored_only_because_sampled_N=np.array([stored_only_because_sampled]),
        tail_mean_N=floats([tail_mean]),
    )
    return Scores(
        top=entries([ids], logp),
        tail_samples=entries([tail_samples], math.log(0.0025)),
        student=entries([student], -20.0),
        stats=stats,
    )


TOKEN_OF_RANK = np.array([5, 3, 1, 0, 2, 4, 6, 7])  # ranks of tokens 0..7: 3 2 4 1 5 0 6 7
_POSITION_BYTES = {
    "entropy": bytes([48]),  # 1.5 * 32
    "realised_only": bytes([1]),
    "tail_g": bytes([50]),  # 1 + 4 * 12.25
}
_SQRT8_BYTES = {
    "head_id": bytes([1, 0, 2, 0, 2, 0]),  # 1, 4 - 1 - 1, 7 - 4 - 1
    "head_p": bytes([191, 255, 1]),  # (64 / 128) ** 2, 1, the floor
    "head_n": bytes([3, 0]),
    "draw_id": bytes([3, 0, 3, 0, 0, 0]),  # 3, 6 - 3, 6 - 6
    "draw_p": bytes([133, 133, 133]),  # (6 / 128) ** 2 is the nearest to 0.0025
    "draw_n": bytes([3]),
    "union_id": bytes([0, 0]),
    "union_p": bytes([1]),
    "union_n": bytes([1, 0]),
    "token_p": bytes([68]),  # 255 - 187; (60 / 128) ** 2 is the nearest to exp(-1.5)
    "tail": bytes([190]),  # 191 - 1: these top tokens leave no mass
    "union_tail": bytes([191]),  # 191 - 0
    **_POSITION_BYTES,
    "entropy": bytes([253]),  # 48 - 51: .25 log 4 of the top tokens, .25 (log 4 + 7.5) of the tail, 2.57 nats
}
LITERAL_BYTES = {
    "sqrt8": _SQRT8_BYTES,
    "topk": {
        "head_token": bytes([2, 0, 3, 0, 7, 0]),
        "head_logp": bytes([0x00, 0x00, 0x8C, 0xBD, 0x80, 0xCF]),  # 0, -1.3867, -30
        "head_n": bytes([3, 0]),
        "draw_token": bytes([0, 0, 6, 0, 6, 0]),
        "draw_logp": bytes([0xFE, 0xC5, 0xFE, 0xC5, 0xFE, 0xC5]),  # -5.9922
        "draw_n": bytes([3]),
        "union_token": bytes([5, 0]),
        "union_logp": bytes([0x00, 0xCD]),  # -20
        "union_n": bytes([1, 0]),
        "token_logp": bytes([0x00, 0xBE]),
        "log_tail": bytes([0x8C, 0xBD]),
        "log_union_tail": bytes([0x00, 0xFC]),  # -inf
        **_POSITION_BYTES,
    },
    "rskd": {name: data for name, data in _SQRT8_BYTES.items() if name != "draw_p"}
    | {"draw_id": bytes([3, 0, 2, 0]), "draw_count": bytes([1, 2]), "draw_n": bytes([2])},  # 3, 6 - 3 - 1
}


@codecs
def test_literal_bytes(codec: Codec) -> None:
    scores = _one_position(
        ids=[2, 3, 7],  # ranks 4, 1, 7
        logp=[0.0, math.log(0.25), -30.0],
        tail_samples=(6, 0, 6),  # ranks 6, 3, 6
        student=(5,),  # rank 0
        tail=0.25,
        student_tail=0.0,
        token_logp=-1.5,
        entropy=2.25,
        stored_only_because_sampled=True,
        tail_mean=-12.3,
    )
    arrays = codec.encode(scores, np.argsort(TOKEN_OF_RANK))
    assert {name: array.tobytes() for name, array in arrays.items()} == LITERAL_BYTES[codec.name]


def test_rskd_estimates_a_tail_sample_by_its_multiplicity() -> None:
    codec, ranks = CODECS["rskd"], np.arange(8)
    scores = join_scores(
        [
            _one_position(ids=[1], logp=[-0.7], tail_samples=(6, 3, 6, 6), tail=0.25),
            _one_position(ids=[1], logp=[0.0], tail_samples=(2,), tail=0.0),
            _one_position(ids=[1], logp=[0.0], tail=0.25),
        ],
        1,
    )
    got = codec.decode(codec.encode(scores, ranks), ranks)
    assert got.tail_samples.ids.tolist() == [3, 6, 6, 6, 2]
    assert got.tail_samples.counts.tolist() == [4, 1, 0]
    assert np.exp(got.tail_samples.logp[:4]) == pytest.approx([0.0625, 0.1875, 0.1875, 0.1875], rel=1e-6)
    assert got.tail_samples.logp[4] == pytest.approx(-20)  # the floor: a sampled token has a probability above 0


def test_every_half_is_its_own_code() -> None:
    """Log-masses go through float32 probabilities, which are coarse beside 1."""
    codec, ranks = CODECS["topk"], np.arange(8)
    bits = np.arange(0x8001, 0xD401, dtype=np.uint16)  # the least number below 0, to -64
    halves_N1 = np.append(bits, 0).astype(np.uint16).view(np.float16)[:, None]
    assert halves_N1.min() == -64
    rows = join_scores([_one_position(ids=[], logp=[])] * len(halves_N1), 1)
    arrays = codec.encode(rows, ranks) | {"log_tail": halves_N1, "log_union_tail": halves_N1}
    again = codec.encode(codec.decode(arrays, ranks), ranks)
    assert again["log_tail"].tobytes() == halves_N1.tobytes()
    values = halves_N1[:, 0].astype(np.float32)
    assert np.array_equal(_through(codec, values), values)


def test_every_code_has_the_value_of_the_specification() -> None:
    """The formulas in the docstring of schemas.segment, written out once more."""
    codec = Sqrt8(levels=128, floor_nats=20.0)
    k, b = math.floor(128 * math.sqrt(0.001)), 131
    p = [0.0]
    p += [math.exp(-20 + (c - 1) * (20 + 2 * math.log(k / 128)) / (b - 1)) for c in range(1, b)]
    p += [((k + c - b) / 128) ** 2 for c in range(b, 256)]
    codes = np.arange(256, dtype=np.uint8)
    rows = join_scores([_one_position(ids=[], logp=[])] * 256, 1)
    ranks = np.arange(8)
    tail = codes[:, None] - np.uint8(255)  # without top tokens the expected tail has all the mass
    arrays = codec.encode(rows, ranks) | {"tail": tail, "union_tail": np.zeros((256, 1), np.uint8)}
    masses = codec.decode(arrays, ranks).stats.tail_NH[:, 0]
    assert np.allclose(masses, p, rtol=1e-6, atol=0)
    assert (np.diff(masses) > 0).all()


@settings(max_examples=60)
@given(levels=st.integers(32, 250), floor_nats=st.floats(10, 80), logp=st.floats(-100, 0, width=32))
def test_any_configuration_keeps_its_promise(levels: int, floor_nats: float, logp: float) -> None:
    codec = Sqrt8(levels=levels, floor_nats=floor_nats)
    values = np.array([logp], dtype=np.float32)
    got = _through(codec, values)
    _in_bounds(codec, np.exp(values.astype(np.float64)), np.exp(got.astype(np.float64)))
    assert np.array_equal(_through(codec, got), got)


@codecs
def test_impossible_tokens_are_clamped(codec: Codec) -> None:
    ranks = np.arange(8)
    scores = _one_position(ids=[1], logp=[-math.inf], tail=-1e-8, token_logp=-math.inf)
    got = codec.decode(codec.encode(scores, ranks), ranks)
    assert got.top.logp[0] == pytest.approx(math.log(codec.bounds.floor_p))
    assert got.stats.tail_NH[0, 0] == 0
    assert np.isfinite(got.stats.token_logp_N).all()


@codecs
def test_too_many_entries_are_refused(codec: Codec) -> None:
    scores = _one_position(ids=[], logp=[], tail_samples=(1,) * 256)
    with pytest.raises(StoreError, match="draw entries: expected at most 255 at a position, got 256"):
        codec.encode(scores, np.arange(8))


@codecs
def test_broken_scores_are_our_mistake(codec: Codec) -> None:
    for ids, logp in (([1, 1], [-1.0, -1.0]), ([8], [-1.0]), ([-1], [-1.0]), ([1], [math.nan])):
        with pytest.raises(AssertionError):
            codec.encode(_one_position(ids=ids, logp=logp), np.arange(8))


@codecs
def test_a_codec_comes_back_from_a_manifest(codec: Codec) -> None:
    written = Manifest(
        format="",
        scorer="",
        teacher="",
        tokenizer="",
        template="",
        engine="",
        dtype="",
        vocab_size=0,
        temperatures=(1.0,),
        scoring={},
        codec=codec.name,
        codec_config=config_of(codec),
        error_bounds=asdict(codec.bounds),
        measured=Measured(positions=0, sqrt_p_max=0.0, sqrt_p_mean=0.0, log_p_max=0.0, forward_kl=0.0),
        ranks="",
        sequences=0,
        positions=0,
        head_entries=0,
        draws=0,
        union_entries=0,
        files={},
    )
    read = decode_manifest(written.to_text())
    assert CODECS[read.codec] == codec
    assert build_codec(read.codec, read.codec_config) == codec
    assert ErrorBounds(**read.error_bounds) == codec.bounds
    assert 0 < codec.bounds.floor_p < codec.bounds.small_p <= SMALL_P


def test_scores_that_another_codec_rounded_are_other_scores() -> None:
    every = [*CODECS.values(), Sqrt8(levels=128, floor_nats=21.0)]
    assert len({stored_fingerprint(scorer, codec) for scorer in ("one", "other") for codec in every}) == 2 * len(every)
    assert stored_fingerprint("one", Sqrt8(levels=128, floor_nats=20.0)) == stored_fingerprint("one", CODECS["sqrt8"])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("other", {}),
        ("sqrt8", {}),
        ("sqrt8", {"levels": 128, "floor_nats": 20.0, "more": 1}),
        ("sqrt8", {"levels": 300, "floor_nats": 20.0}),
        ("sqrt8", {"levels": 128, "floor_nats": "20"}),
        ("rskd", {"levels": 300, "floor_nats": 20.0}),
        ("topk", {"levels": 128}),
    ],
)
def test_unknown_codecs_are_refused(name: str, config: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="codec"):
        build_codec(name, config)
