"""Conformance of every registered divergence, over all betas, against formulas in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pipeline.losses.divergences import DIVERGENCES, Divergence, DivergenceParams

BETAS = (0.001, 0.1, 0.5, 0.9, 0.999)
Formula = Callable[[NDArray[np.float64], NDArray[np.float64], float], NDArray[np.float64]]

# f of sum_i p_i f(q_i / p_i), and f'
F: dict[str, Formula] = {
    "forward_kl": lambda p, q, _: -np.log(q / p),
    "reverse_kl": lambda p, q, _: q / p * np.log(q / p),
    "jsd": lambda p, q, b: -b * np.log(b + (1 - b) * q / p) + (1 - b) * q / p * np.log(q / p / (b + (1 - b) * q / p)),
    "skew_forward_kl": lambda p, q, a: -np.log(a + (1 - a) * q / p),
    "skew_reverse_kl": lambda p, q, a: q / p * np.log(q / p / ((1 - a) + a * q / p)),
    "tvd": lambda p, q, _: np.abs(q / p - 1) / 2,
}
F_PRIME: dict[str, Formula] = {
    "forward_kl": lambda p, q, _: -p / q,
    "reverse_kl": lambda p, q, _: np.log(q / p) + 1,
    "jsd": lambda p, q, b: (1 - b) * np.log(q / (b * p + (1 - b) * q)),
    "skew_forward_kl": lambda p, q, a: -(1 - a) / (a + (1 - a) * q / p),
    "skew_reverse_kl": lambda p, q, a: np.log(q / ((1 - a) * p + a * q)) + 1 - a * q / ((1 - a) * p + a * q),
    "tvd": lambda p, q, _: np.sign(q - p) / 2,
}
PARAMETERS = {"jsd": BETAS, "skew_forward_kl": BETAS[:-1], "skew_reverse_kl": BETAS[:-1]}
CASES = [(name, beta) for name in DIVERGENCES for beta in PARAMETERS.get(name, (0.5,))]
every_divergence = pytest.mark.parametrize(("name", "beta"), CASES)


def build(name: str, beta: float, *, normalise: bool = False) -> Divergence:
    """Return the divergence with this beta, or with this skew."""
    p = DivergenceParams(name=name, beta=beta, skew=beta, normalise=normalise)  # type: ignore[arg-type]
    return DIVERGENCES[name](p)


def forward_kl(logp: Tensor, logq: Tensor) -> Tensor:
    return build("forward_kl", 0.5)(logp, logq)


def reverse_kl(logp: Tensor, logq: Tensor) -> Tensor:
    return build("reverse_kl", 0.5)(logp, logq)


def jsd(beta: float) -> Divergence:
    return build("jsd", beta)


def distributions(seed: int, outcomes: int, *, spread: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return two distributions [2, C] as log-probs."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, outcomes, generator=generator, dtype=dtype) * spread).log_softmax(-1)


seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 40)


def test_every_divergence_has_a_formula_here() -> None:
    assert set(F) == set(F_PRIME) == set(DIVERGENCES)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_states_its_status_and_source(name: str) -> None:
    docstring = DIVERGENCES[name].__doc__ or ""
    assert "Status: exact" in docstring
    assert "Source: " in docstring


@every_divergence
@settings(max_examples=40)
@given(seed=seeds, outcomes=sizes, spread=st.floats(0.1, 20))
def test_equals_the_formula(name: str, beta: float, seed: int, outcomes: int, spread: float) -> None:
    logp, logq = distributions(seed, outcomes, spread=spread)
    p, q = logp.exp().numpy(), logq.exp().numpy()
    expected = (p * F[name](p, q, beta)).sum()
    assert build(name, beta)(logp, logq).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@every_divergence
@settings(max_examples=40)
@given(seed=seeds, outcomes=sizes)
def test_is_zero_for_equals_and_positive_for_others(name: str, beta: float, seed: int, outcomes: int) -> None:
    logp, logq = distributions(seed, outcomes)
    assert build(name, beta)(logp, logp).abs() < 1e-12
    assert build(name, beta)(logp, logq) > 1e-12


@every_divergence
@settings(max_examples=40)
@given(seed=seeds, outcomes=sizes, nearness=st.floats(0, 1e-3))
def test_is_not_negative_beyond_rounding_in_float32(
    name: str, beta: float, seed: int, outcomes: int, nearness: float
) -> None:
    logp, other = distributions(seed, outcomes, dtype=torch.float32)
    logq = (logp + nearness * other).log_softmax(-1)
    assert build(name, beta)(logp, logq) >= -1e-6


@every_divergence
@settings(max_examples=40)
@given(seed=seeds, outcomes=sizes)
def test_gradient_is_the_derivative_of_f(name: str, beta: float, seed: int, outcomes: int) -> None:
    logp, logq = distributions(seed, outcomes)
    q = logq.exp().requires_grad_()
    build(name, beta)(logp, q.log()).backward()
    assert q.grad is not None
    expected = F_PRIME[name](logp.exp().numpy(), q.detach().numpy(), beta)
    assert q.grad.numpy() == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert build(name, beta).slope(logp, logq).numpy() == pytest.approx(expected, rel=1e-8, abs=1e-10)


@every_divergence
@pytest.mark.parametrize("hopeless", [-30.0, -80.0, -300.0])
def test_a_token_the_student_all_but_excludes_has_a_finite_gradient(name: str, beta: float, hopeless: float) -> None:
    logp = torch.tensor([0.6, 0.3, 0.1]).log()
    logits = torch.tensor([0.0, hopeless, 1.0], requires_grad=True)
    loss = build(name, beta)(logp, logits.log_softmax(-1))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() > 1e-4


@every_divergence
def test_padding_counts_nothing(name: str, beta: float) -> None:
    logp, logits = distributions(0, 5)
    plain, padded = (logits.clone().requires_grad_() for _ in range(2))
    nothing = torch.full((3,), -torch.inf, dtype=torch.float64)
    short = build(name, beta)(logp, plain.log_softmax(-1))
    long = build(name, beta)(torch.cat([logp, nothing]), torch.cat([padded.log_softmax(-1), nothing]))
    short.backward()
    long.backward()
    assert long.item() == pytest.approx(short.item(), rel=1e-14)
    assert torch.allclose(padded.grad, plain.grad, rtol=1e-12, atol=0)  # type: ignore[arg-type]


@every_divergence
def test_rows_are_independent(name: str, beta: float) -> None:
    logp_BC, logq_BC = (torch.stack(rows) for rows in zip(*[distributions(i, 6) for i in range(4)], strict=True))
    apart = [build(name, beta)(logp, logq).item() for logp, logq in zip(logp_BC, logq_BC, strict=True)]
    assert build(name, beta)(logp_BC, logq_BC).tolist() == pytest.approx(apart, rel=1e-14)


def test_forward_kl_ignores_outcomes_that_the_teacher_excludes() -> None:
    logp, logq = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.25, 0.75]).log()
    assert forward_kl(logp, logq).item() == pytest.approx(np.log(4))
    assert reverse_kl(logp, logq).item() == np.inf
    assert jsd(0.5)(logp, logq).item() == pytest.approx(
        0.5 * np.log(1 / 0.625) + 0.5 * (0.25 * np.log(0.4) + 0.75 * np.log(2))
    )


def test_small_beta_tends_to_forward_kl_and_large_beta_to_reverse_kl() -> None:
    logp, logq = distributions(3, 7)
    assert jsd(1e-6)(logp, logq).item() / 1e-6 == pytest.approx(forward_kl(logp, logq).item(), rel=1e-4)
    assert jsd(1 - 1e-6)(logp, logq).item() / 1e-6 == pytest.approx(reverse_kl(logp, logq).item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_without_skew_the_skewed_divergences_are_the_plain_ones(kind: str) -> None:
    logp, logq = distributions(3, 7)
    p = DivergenceParams(name=f"skew_{kind}_kl", beta=0.5, skew=0.0, normalise=False)  # type: ignore[arg-type]
    plain = build(f"{kind}_kl", 0.5)
    assert DIVERGENCES[p.name](p)(logp, logq).item() == pytest.approx(plain(logp, logq).item(), rel=1e-12)
    assert torch.allclose(DIVERGENCES[p.name](p).slope(logp, logq), plain.slope(logp, logq), rtol=1e-12)


def test_normalised_jsd_is_divided_by_beta_and_its_complement() -> None:
    logp, logq = distributions(3, 7)
    plain, normalised = (build("jsd", 0.1, normalise=on) for on in (False, True))
    assert normalised(logp, logq).item() == pytest.approx(plain(logp, logq).item() / 0.09, rel=1e-12)
    assert torch.allclose(normalised.slope(logp, logq), plain.slope(logp, logq) / 0.09, rtol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_jsd_is_symmetric_in_sides_and_beta(beta: float) -> None:
    logp, logq = distributions(4, 7)
    assert jsd(beta)(logp, logq).item() == pytest.approx(jsd(1 - beta)(logq, logp).item(), rel=1e-12)


def test_the_bounds_of_jsd() -> None:
    """The maximum of jsd, at disjoint distributions, is the entropy of (beta, 1 - beta)."""
    logp, logq = torch.eye(2, dtype=torch.float64).log()
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert jsd(0.3)(logp, logq).item() == pytest.approx(entropy, rel=1e-12)
