"""The parameters that all rows of `bench.end_to_end.quality` have in common."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The sizes and the optimizer of one comparison."""

    layers: str
    """Layers of the teacher that the student keeps, separated by commas."""

    divergence: str
    """What both sides minimise: `forward_kl` or `reverse_kl`."""

    steps: int
    """Optimizer steps of a row."""

    stretch: int
    """Factor by which the rows of this pipeline have more steps, which cost less."""

    measure: int
    """Steps between measurements."""

    batch: int
    """Rollouts of a step."""

    tokens: int
    """Largest number of tokens of a rollout."""

    heldout: int
    """Held-out prompts on which a student is measured."""

    completions: int
    """Completions of each held-out prompt."""

    learning_rate: float

    schedule: str
    """Schedule of the learning rate, by transformers' name; `linear` goes down to 0 at the last step."""

    ema_decay: float | None
    """Decay of the average of weights, with a constant learning rate; None for no average."""

    entries: str
    """What this pipeline stores of a score; a key of `bench.end_to_end.quality`'s `_ENTRIES`."""

    recompute: bool
    """Whether both sides compute activations again in the backward pass, which is TRL's default."""
