"""Time and memory of the loss over hidden states and the head's weights, relative to the three bare matrix products.

    python -m bench.loss.loss --json FILE

* A measurement is a forward and a backward pass, with gradients of hidden states and weights, on random states and
  random teacher rows with 64 entries and 8 tail samples per position.
* Each row runs in a subprocess of its own, with the settings of a stage.
* Seconds are wall-clock time and processor time (all threads). On a busy machine only processor time is meaningful, and
  best as the ratio to the matrix products, which alternate with the loss in the same process.
* Extra memory is the rise of the peak of resident memory, on a CPU under Linux.
* `trl` and `liger-kernel` are measured where they are installed
  (`pip install --no-deps --target DIR trl==1.16.0 liger-kernel`, and PYTHONPATH=DIR). The chunked divergence is that of
  TRL's `DistillationTrainer`, `generalized_jsd_loss` that of its `GKDTrainer`; both multiply by the teacher's head too.
* On a processor without bfloat16 the bare products in bfloat16 take minutes in every row; `--dtype float32` is faster.
"""

import ctypes
import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import click
import torch
from torch import Tensor

from bench.clock import timed
from bench.end_to_end.trl_trainers import BETAS, gkd_of_trl
from bench.objectives import divergence_alone
from bench.output import Row, show, write_json
from bench.subprocess_run import peak_bytes, run_in_subprocess
from pipeline.losses.batch import TeacherRows
from pipeline.losses.objective import batch_loss
from pipeline.models import language_model as lm
from pipeline.models.head import Head

_ENTRIES, _TAIL_SAMPLES = 64, 8
_Name: TypeAlias = Literal["forward_kl", "reverse_kl"]
_RATIOS = {"seconds": "of_matmuls", "seconds_of_processor": "of_matmuls_of_processor"}


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    default=["2048x576x49152", "2048x960x49152"],
    show_default=True,
    help="Tokens x width x vocabulary; may be repeated.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(["float32", "bfloat16"]),
    default=["float32", "bfloat16"],
    show_default=True,
    help="The dtype of states and weights; may be repeated.",
)
@click.option("--repeats", default=3, show_default=True, help="Measurements of each row; the fastest counts.")
@click.option("--loss", "chosen", multiple=True, help="A name in the table; only these losses are measured.")
@click.option("--only", help="Measure one row in this process, and print it as a line of JSON.")
def main(
    out: Path | None,
    shapes: tuple[str, ...],
    dtypes: tuple[str, ...],
    repeats: int,
    chosen: tuple[str, ...],
    only: str | None,
) -> None:
    """Run the benchmark and print its table."""
    if only is not None:
        click.echo(json.dumps(_measured(only, _parsed(shapes[0]), dtypes[0], repeats)))
        return
    rows: list[Row] = []
    for dtype, shape, name in itertools.product(dtypes, shapes, chosen or _LOSSES):
        if _installed(name):
            size = dict(zip(("tokens", "width", "vocab"), _parsed(shape), strict=True)) | {"dtype": dtype}
            rows.append(run_in_subprocess("bench.loss.loss", name, shape=shape, dtype=dtype, repeats=repeats) | size)
            if out is not None:
                write_json(out, rows)
    table = [["loss", "shape", "dtype", "seconds", "of the matmuls", "processor, s", "of the matmuls", "extra MB"]]
    for row in rows:
        shape = f"{row['tokens']} x {row['width']} x {row['vocab']}"
        numbers = [f"{row[key]:.2f}" for pair in _RATIOS.items() for key in pair]
        table.append([row["name"], shape, row["dtype"], *numbers, f"{row['extra_mb']:.0f}"])
    show(table, rows, out)


def _parsed(shape: str) -> tuple[int, int, int]:
    try:
        tokens, width, vocab = (int(size) for size in shape.split("x"))
    except ValueError:
        raise click.UsageError(f"--shape: expected TOKENSxWIDTHxVOCAB, got {shape}") from None
    return tokens, width, vocab


def _installed(name: str) -> bool:
    return name not in _PACKAGES or importlib.util.find_spec(_PACKAGES[name]) is not None


def _measured(name: str, shape: tuple[int, int, int], dtype: str, repeats: int) -> Row:
    """Measure one loss.

    Returns:
        The fewest seconds of all measurements, their ratio to the fewest seconds of the matrix products, and the extra
        memory of the first measurement, before the process has freed memory to use again.
    """
    torch.manual_seed(0)
    (tokens, width, vocab), kind = shape, getattr(torch, dtype)
    hidden_ND = torch.randn(tokens, width).to(kind).requires_grad_()
    weight_VD = (torch.randn(vocab, width) * width**-0.5).to(kind).requires_grad_()
    loss, products = _LOSSES[name](hidden_ND, weight_VD), _matmuls(hidden_ND, weight_VD)
    # Return freed memory to the system: the loss could use it without raising the peak.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    loss_times, product_times, extra = [], [], []
    for _ in range(repeats):
        hidden_ND.grad = weight_VD.grad = None
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
        before = peak_bytes()
        loss_times.append(timed(lambda: _forward_backward(loss)))
        extra.append(peak_bytes() - before)
        product_times.append(timed(lambda: _forward_backward(products)))
    row: Row = {"name": name, "extra_mb": extra[0] / 1e6}
    for key, ratio in _RATIOS.items():
        seconds = min(times[key] for times in loss_times)
        row |= {key: seconds, ratio: seconds / min(times[key] for times in product_times)}
    return row


def _forward_backward(loss: "Loss") -> None:
    value = loss()
    if value is not None:
        value.backward()  # type: ignore[no-untyped-call]


Loss: TypeAlias = Callable[[], Tensor | None]  # a value to differentiate; None if it computes its gradients itself


def _matmuls(hidden_ND: Tensor, weight_VD: Tensor) -> Loss:
    def loss() -> None:
        logits_NV = hidden_ND.detach() @ weight_VD.detach().T
        weight_VD.grad, hidden_ND.grad = logits_NV.T @ hidden_ND.detach(), logits_NV @ weight_VD.detach()

    return loss


def _teacher(weight_VD: Tensor) -> Tensor:
    teacher_VD: Tensor = torch.randn_like(weight_VD, requires_grad=False) * weight_VD.shape[1] ** -0.5
    return teacher_VD


def _dense(hidden_ND: Tensor, weight_VD: Tensor) -> Loss:
    teacher_VD = _teacher(weight_VD)

    def loss() -> Tensor:
        with torch.no_grad():
            p_NV = (hidden_ND @ teacher_VD.T).float().softmax(-1)
        logq_NV: Tensor = (hidden_ND @ weight_VD.T).float().log_softmax(-1)
        return -(p_NV * logq_NV).sum()

    return loss


def _gathered(hidden_ND: Tensor, weight_VD: Tensor) -> Loss:
    rows = _teacher_rows(len(hidden_ND), len(weight_VD))

    def loss() -> Tensor:
        logq_NV: Tensor = (hidden_ND @ weight_VD.T).float().log_softmax(-1)
        cross_entropy: Tensor = -(rows.logp_NK.exp() * logq_NV.gather(-1, rows.ids_NK.long())).sum()
        return cross_entropy

    return loss


def _chunked(chunk: int, name: _Name = "forward_kl") -> Callable[[Tensor, Tensor], Loss]:
    def prepared(hidden_ND: Tensor, weight_VD: Tensor) -> Loss:
        rows = _teacher_rows(len(hidden_ND), len(weight_VD))
        return lambda: _ours(chunk, hidden_ND, weight_VD, rows, name)

    return prepared


def _trl_chunked(name: _Name) -> Callable[[Tensor, Tensor], Loss]:
    def prepared(hidden_ND: Tensor, weight_VD: Tensor) -> Loss:
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        teacher_VD, hidden_of_teacher_ND, beta = _teacher(weight_VD), hidden_ND.detach(), BETAS[name]
        heads = (hidden_ND, weight_VD, None, hidden_of_teacher_ND, teacher_VD, None)
        temperature, scale, softcap = 1.0, 1.0, None

        def loss() -> Tensor:
            divergence_N: Tensor = ChunkedDivergenceFunction.apply(
                *heads, beta, temperature, scale, softcap, scale, softcap
            )[0]
            return divergence_N.sum()

        return loss

    return prepared


def _trl_gkd(hidden_ND: Tensor, weight_VD: Tensor) -> Loss:
    teacher_VD, gkd = _teacher(weight_VD), gkd_of_trl().GKDTrainer

    def loss() -> Tensor:
        with torch.no_grad():
            teacher_1NV = (hidden_ND @ teacher_VD.T)[None]
        jsd: Tensor = gkd.generalized_jsd_loss((hidden_ND @ weight_VD.T)[None], teacher_1NV, beta=0.0)
        return jsd

    return loss


def _liger(hidden_ND: Tensor, weight_VD: Tensor) -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    teacher_VD = _teacher(weight_VD)
    jsd = LigerFusedLinearJSDLoss(compiled=False, weight_hard_loss=0.0, weight_soft_loss=1.0)
    labels_N = torch.zeros(len(hidden_ND), dtype=torch.long)
    return lambda: jsd(hidden_ND, weight_VD, hidden_ND.detach(), teacher_VD, labels_N)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Loss]] = {
    "the head's three matrix products": _matmuls,
    "dense forward KL, live teacher": _dense,
    "log_softmax and gather, no tail": _gathered,
    "stillroom, chunks of 128": _chunked(128),
    "stillroom, chunks of 512": _chunked(512),
    "stillroom, chunks of 512, reverse KL": _chunked(512, "reverse_kl"),
    "TRL chunked divergence, beta 0": _trl_chunked("forward_kl"),
    "TRL chunked divergence, beta 1": _trl_chunked("reverse_kl"),
    "TRL generalized_jsd_loss, beta 0": _trl_gkd,
    "Liger chunked JSD": _liger,
}
_PACKAGES = {name: "trl" for name in _LOSSES if name.startswith("TRL")} | {"Liger chunked JSD": "liger_kernel"}


def _ours(chunk: int, hidden_ND: Tensor, weight_VD: Tensor, rows: TeacherRows, name: _Name = "forward_kl") -> Tensor:
    """Return the pipeline's loss, with the default tail estimator of the divergence."""
    p = divergence_alone(name, tail_mean_staleness=1.0, chunk_tokens=chunk)
    head = Head(weight_VD=weight_VD, bias_V=None, softcap=None)
    with lm.autocast(weight_VD.dtype):  # as in training
        return batch_loss(p, head, hidden_ND, rows, behaviour_temperature=1.0)[0]


def _teacher_rows(positions: int, vocab: int) -> TeacherRows:
    logits_NC = torch.randn(positions, _ENTRIES + 1) * 2
    logp_NC = logits_NC.log_softmax(-1)
    logweight_N1 = logp_NC[:, -1:] - torch.tensor(float(_TAIL_SAMPLES)).log()
    return TeacherRows(
        token_ids_N=torch.randint(vocab, (positions,)),
        on_policy_N=torch.ones(positions, dtype=torch.bool),
        behaviour_logp_N=torch.full((positions,), -1.0),
        sampling_logp_N=torch.full((positions,), -1.0),
        token_logp_N=torch.full((positions,), -1.0),
        stored_only_because_sampled_N=torch.zeros(positions, dtype=torch.bool),
        tail_mean_N=torch.full((positions,), -12.0),
        advantage_N=torch.zeros(positions),
        ids_NK=torch.rand(positions, vocab).topk(_ENTRIES).indices,
        logp_NK=logp_NC[:, :-1].contiguous(),
        tail_N=logp_NC[:, -1].exp(),
        tail_sample_ids_NJ=torch.randint(vocab, (positions, _TAIL_SAMPLES)),
        tail_sample_logp_NJ=torch.full((positions, _TAIL_SAMPLES), -12.0),
        tail_sample_logweight_NJ=logweight_N1.expand(-1, _TAIL_SAMPLES).contiguous(),
        has_tail_samples_N=torch.ones(positions, dtype=torch.bool),
    )


if __name__ == "__main__":
    main()
