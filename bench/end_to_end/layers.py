"""Choose the layers of a depth-pruned student: greedy backward elimination by the forward KL from the whole model.

    python -m bench.end_to_end.layers --keep 13 --json FILE

In every step, the benchmark removes the layer without which the forward KL is lowest. The KL is measured before any
training, on the teacher's own completions of training prompts (work/corpus). A step takes half a forward pass per
remaining layer, because the layers before the missing one are computed once. `student.small.layers` of the default job
was found in this way.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from bench.output import Row, show
from pipeline.checkpoints.pruning import keep_layers, layer_lists
from pipeline.core.files import read_rollouts
from pipeline.core.types import Precision, Rollout
from pipeline.losses.divergences import DIVERGENCES, DivergenceParams
from pipeline.models import language_model as lm
from pipeline.models.architectures import stacks
from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.layout import LAYOUT

_FORWARD_KL = DIVERGENCES["forward_kl"](DivergenceParams(name="forward_kl", beta=0.5, skew=0.0, normalise=False))


@click.command(help=__doc__)
@click.option("--keep", default=24, show_default=True, help="Layers to end with.")
@click.option("--sequences", default=5, show_default=True, help="Completions to measure on, the shortest first.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
def main(keep: int, sequences: int, out: Path | None) -> None:
    """Run the benchmark and print its table."""
    rollouts = [rollout for rollout in read_rollouts(LAYOUT.corpus.rollouts) if rollout.source == "teacher"]
    rollouts.sort(key=lambda rollout: len(rollout.prompt_ids) + len(rollout.completion_ids))
    pruned = PrunedModel(LAYOUT.teacher, rollouts[:sequences], vocab=shared_vocab(load_tokenizer(LAYOUT.teacher)))
    layers = list(range(pruned.depth))
    rows: list[Row] = []
    while len(layers) > keep:
        kl_without = pruned.forward_kl_without(layers)
        removed = min(kl_without, key=lambda layer: kl_without[layer])
        layers.remove(removed)
        forward_kl = kl_without[removed]
        rows.append(
            {"name": f"{len(layers)} layers", "without": removed, "forward_kl": forward_kl, "layers": [*layers]}
        )
        click.echo(f"{len(layers)} layers, without {removed}: {forward_kl:.3f} nats")
    table = [["layers", "without", "forward KL"]]
    table += [[row["name"], str(row["without"]), f"{row['forward_kl']:.3f}"] for row in rows]
    show(table, rows, out)
    click.echo(f"\nlayers: {layers}")


class PrunedModel:
    """A model with some of its layers, compared with the whole model on given completions."""

    def __init__(self, path: Path, rollouts: Sequence[Rollout], *, vocab: int, precision: Precision = "auto") -> None:
        """Load the model and compute its log-probs at every completion position."""
        self._texts = [rollout.prompt_ids for rollout in rollouts], [rollout.completion_ids for rollout in rollouts]
        self._model: Any = lm.load_model(path, dtype=lm.resolve_dtype(precision))
        self._head = lm.head_of(self._model, vocab)
        self.depth: int = self._model.config.num_hidden_layers
        self._logp_NV = self._logp(self._model)

    def forward_kl(self, layers: Sequence[int]) -> float:
        """Return the forward KL from the whole model to these layers of it, in nats per token."""
        return self._divergence(self._keep(layers))

    def forward_kl_without(self, layers: Sequence[int]) -> dict[int, float]:
        """Return, for each of two or more layers, the forward KL from the whole model to the other layers.

        The layers before the missing layer are not computed again: their output is what they gave with all layers.
        """
        inputs: dict[int, list[Tensor]] = {place: [] for place in range(len(layers))}
        whole = self._keep(layers)
        for place, module in enumerate(_layers(whole)):
            module.register_forward_pre_hook(partial(_record, inputs[place]), with_kwargs=True)
        self._logp(whole)
        divergences = {}
        for place, layer in enumerate(layers):
            others = [*layers[:place], *layers[place + 1 :]]
            first = min(place, len(others) - 1)  # where the last layer is missing, the layer before it is computed
            rest = self._keep(others[first:])
            _layers(rest)[0].register_forward_pre_hook(partial(_replace, iter(inputs[first])), with_kwargs=True)
            divergences[layer] = self._divergence(rest)
        return divergences

    def _keep(self, layers: Sequence[int]) -> Any:
        """Return new modules and a new configuration around the same weights."""
        weights = {id(weight): weight for weight in (*self._model.parameters(), *self._model.buffers())}
        return keep_layers(copy.deepcopy(self._model, weights), tuple(layers), where="layers")

    def _divergence(self, model: Any) -> float:
        return float(_FORWARD_KL(self._logp_NV, self._logp(model)).mean())

    @torch.inference_mode()
    def _logp(self, model: Any) -> Tensor:
        return self._head(lm.completion_hidden(model, *self._texts)).log_softmax(-1)


def _layers(model: Any) -> torch.nn.ModuleList:
    """Return the layers of a model's decoder."""
    return next(iter(layer_lists(stacks(model)["decoder"]).values()))


def _record(inputs: list[Tensor], _layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    inputs.append(args[0] if args else kwargs["hidden_states"])


def _replace(inputs: Iterator[Tensor], _layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give a layer the next recorded input: that of the prompts, then that of the completions."""
    hidden_states = next(inputs)
    return ((hidden_states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden_states})


if __name__ == "__main__":
    main()
