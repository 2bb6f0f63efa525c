"""Which layers a depth-pruned student should keep: greedy backward elimination by the forward KL from the whole model.

    python -m bench.end_to_end.layers --keep 13 --json FILE

Again and again the layer goes whose absence hurts least, measured before any training on the teacher's own completions
of training prompts (work/corpus). One forward pass for each layer that could go: 6 minutes for the default teacher on
two slow cores. The default job's `student.small.layers` came from here.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from bench.output import Row, show
from pipeline.checkpoints.pruning import keep_layers
from pipeline.core.files import read_rollouts
from pipeline.core.types import Rollout
from pipeline.losses.divergences import DIVERGENCES, DivergenceParams
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.layout import LAYOUT

_FORWARD_KL = DIVERGENCES["forward_kl"](DivergenceParams(name="forward_kl", beta=0.5, skew=0.0, normalise=False))


@click.command(help=__doc__)
@click.option("--keep", default=13, show_default=True, help="Layers to end with.")
@click.option("--sequences", default=5, show_default=True, help="Completions to measure on, the shortest first.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
def main(keep: int, sequences: int, out: Path | None) -> None:
    written = [one for one in read_rollouts(LAYOUT.corpus.rollouts) if one.source == "teacher"]
    written.sort(key=lambda one: len(one.prompt_ids) + len(one.completion_ids))
    cut = Cut(LAYOUT.teacher, written[:sequences], vocab=shared_vocab(load_tokenizer(LAYOUT.teacher)))
    kept = list(range(cut.depth))
    rows: list[Row] = []
    while len(kept) > keep:
        found = {one: cut.forward_kl([other for other in kept if other != one]) for one in kept}
        gone = min(found, key=lambda one: found[one])
        kept.remove(gone)
        rows.append({"name": f"{len(kept)} layers", "without": gone, "forward_kl": found[gone], "layers": list(kept)})
        click.echo(f"{len(kept)} layers, without {gone}: {found[gone]:.3f} nats")
    table = [["layers", "without", "forward KL"]]
    table += [[one["name"], str(one["without"]), f"{one['forward_kl']:.3f}"] for one in rows]
    show(table, rows, out)
    click.echo(f"\nlayers: {kept}")


class Cut:
    """A model with some of its layers, against the whole of it, on given completions."""

    def __init__(self, path: Path, rollouts: Sequence[Rollout], *, vocab: int) -> None:
        self._texts = [one.prompt_ids for one in rollouts], [one.completion_ids for one in rollouts]
        self._model: Any = lm.load_model(path)
        self._head = lm.head_of(self._model, vocab)
        self.depth: int = self._model.config.num_hidden_layers
        self._logp_NV = self._logp(self._model)

    def forward_kl(self, layers: list[int]) -> float:
        """Nats per token."""
        weights = {id(one): one for one in (*self._model.parameters(), *self._model.buffers())}
        shell = copy.deepcopy(self._model, weights)  # modules and configuration of its own, the same weights
        logq_NV = self._logp(keep_layers(shell, tuple(layers), where="layers"))
        return float(_FORWARD_KL(self._logp_NV, logq_NV).mean())

    @torch.inference_mode()
    def _logp(self, model: Any) -> Tensor:
        return self._head(lm.completion_hidden(model, *self._texts)).log_softmax(-1)


if __name__ == "__main__":
    main()
