"""The loss over hidden states and the head's weights: seconds and extra memory, beside the three bare matrix products.

    python -m bench.loss --json FILE

Forward and backward pass, gradients of hidden states and weights included, on random states and random teacher rows
with 64 entries and 8 draws. Extra memory is the rise of the process's peak, on a CPU with Linux only. `trl` and
`liger-kernel` are measured where they are installed (`pip install --no-deps trl liger-kernel`).
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

from bench.output import Row, show
from pipeline.divergence import DivergenceParams
from pipeline.head import Head
from pipeline.objective import ObjectiveParams, batch_loss
from pipeline.records import Batch

_ENTRIES, _DRAWS, _REPEATS = 64, 8, 3


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--tokens", default=2048, show_default=True)
@click.option("--width", default=576, show_default=True)
@click.option("--vocab", default=49152, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
def main(out: Path | None, tokens: int, width: int, vocab: int, dtype: str) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    hidden_ND = torch.randn(tokens, width).to(kind).requires_grad_()
    weight_VD = (torch.randn(vocab, width) * width**-0.5).to(kind).requires_grad_()
    rows = [_measured(name, loss, hidden_ND, weight_VD) for name, loss in _losses(hidden_ND, weight_VD)]
    for row in rows:
        row |= {"tokens": tokens, "width": width, "vocab": vocab, "dtype": dtype}
        row["of_matmuls"] = row["seconds"] / rows[0]["seconds"]
    table = [["loss", "seconds", "of the matmuls", "extra MB"]]
    table += [
        [one["name"], f"{one['seconds']:.2f}", f"{one['of_matmuls']:.2f}", f"{one['extra_mb']:.0f}"] for one in rows
    ]
    show(table, rows, out)


def _measured(name: str, loss: Callable[[], Tensor | None], hidden_ND: Tensor, weight_VD: Tensor) -> Row:
    """The best of three."""
    seconds, extra = [], []
    for _ in range(_REPEATS):
        hidden_ND.grad = weight_VD.grad = None
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, started = _peak_bytes(), time.perf_counter()
        value = loss()
        if value is not None:
            value.backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - started)
        extra.append(_peak_bytes() - before)
    return {"name": name, "seconds": min(seconds), "extra_mb": min(extra) / 1e6}


def _peak_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def _losses(hidden_ND: Tensor, weight_VD: Tensor) -> Iterator[tuple[str, Callable[[], Tensor | None]]]:
    """Each gives a loss to differentiate, or None when it has taken its gradients itself."""
    teacher_VD = torch.randn_like(weight_VD) * weight_VD.shape[1] ** -0.5
    batch = _batch(len(hidden_ND), len(weight_VD))

    def matmuls() -> None:
        logits_NV = hidden_ND.detach() @ weight_VD.detach().T
        weight_VD.grad, hidden_ND.grad = logits_NV.T @ hidden_ND.detach(), logits_NV @ weight_VD.detach()

    def dense() -> Tensor:
        with torch.no_grad():
            p_NV = (hidden_ND @ teacher_VD.T).float().softmax(-1)
        logq_NV: Tensor = (hidden_ND @ weight_VD.T).float().log_softmax(-1)
        loss: Tensor = -(p_NV * logq_NV).sum()
        return loss

    def gathered() -> Tensor:
        logq_NV: Tensor = (hidden_ND @ weight_VD.T).float().log_softmax(-1)
        loss: Tensor = -(batch.logp_NK.exp() * logq_NV.gather(-1, batch.ids_NK)).sum()
        return loss

    yield "the head's three matrix products", matmuls
    yield "dense forward KL, live teacher", dense
    yield "log_softmax and gather, no tail", gathered
    for chunk in (128, 512):
        yield f"stillroom, chunks of {chunk}", lambda chunk=chunk: _ours(chunk, hidden_ND, weight_VD, batch)  # type: ignore[misc]
    if importlib.util.find_spec("trl") is not None:
        from trl.experimental.gkd import GKDTrainer

        def trl() -> Tensor:
            with torch.no_grad():
                teacher_1NV = (hidden_ND @ teacher_VD.T)[None]
            loss: Tensor = GKDTrainer.generalized_jsd_loss((hidden_ND @ weight_VD.T)[None], teacher_1NV, beta=0.0)
            return loss

        yield "TRL generalized_jsd_loss, beta 0", trl
    if importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        jsd = LigerFusedLinearJSDLoss(compiled=False, weight_hard_loss=0.0, weight_soft_loss=1.0)
        labels_N = torch.zeros(len(hidden_ND), dtype=torch.long)
        yield "Liger chunked JSD", lambda: jsd(hidden_ND, weight_VD, hidden_ND.detach(), teacher_VD, labels_N)


def _ours(chunk: int, hidden_ND: Tensor, weight_VD: Tensor, batch: Batch) -> Tensor:
    divergence = DivergenceParams(name="forward_kl", beta=0.5, skew=0.0, normalise=False)
    p = ObjectiveParams(
        divergence=divergence,
        temperature=1.0,
        support="auto",
        tail_draws_scale=0.3,
        g_staleness=1.0,
        cross_entropy=0.0,
        alpha=1.0,
        epsilon=0.2,
        chunk_tokens=chunk,
    )
    return batch_loss(
        p, Head(weight_VD=weight_VD, bias_V=None, softcap=None), hidden_ND, batch, behaviour_temperature=1.0
    )[0]


def _batch(positions: int, vocab: int) -> Batch:
    logits_NC = torch.randn(positions, _ENTRIES + 1) * 2
    logp_NC = logits_NC.log_softmax(-1)
    return Batch(
        prompt_ids=[],
        completion_ids=[],
        from_student_B=torch.tensor([True]),
        ended_B=torch.tensor([True]),
        token_ids_N=torch.randint(vocab, (positions,)),
        fresh_N=torch.ones(positions, dtype=torch.bool),
        behaviour_logp_N=torch.full((positions,), -1.0),
        author_logp_N=torch.full((positions,), -1.0),
        token_logp_N=torch.full((positions,), -1.0),
        realised_only_N=torch.zeros(positions, dtype=torch.bool),
        tail_g_N=torch.full((positions,), -12.0),
        reward_B=torch.tensor([torch.nan]),
        advantage_N=torch.zeros(positions),
        ids_NK=torch.rand(positions, vocab).topk(_ENTRIES).indices,
        logp_NK=logp_NC[:, :-1].contiguous(),
        tail_N=logp_NC[:, -1].exp(),
        draw_ids_NJ=torch.randint(vocab, (positions, _DRAWS)),
        draw_logp_NJ=torch.full((positions, _DRAWS), -12.0),
        draw_logweight_NJ=(logp_NC[:, -1:] - torch.tensor(float(_DRAWS)).log()).expand(-1, _DRAWS).contiguous(),
        has_draws_N=torch.ones(positions, dtype=torch.bool),
    )


if __name__ == "__main__":
    main()
