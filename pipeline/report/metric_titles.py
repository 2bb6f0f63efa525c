"""What the figures of a run are called and how they are written; what is not listed shows under its own name."""

from dataclasses import dataclass, replace

_SAMPLED = "sampled_"  # begins the name of a task's metric of completions at temperature 1; without it they are greedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure's title, unit and format."""

    title: str
    form: str = ".4g"
    unit: str = ""
    at_teacher: float | None = None  # its value where student and teacher are the same

    def show(self, value: float | None) -> str:
        """The value as people read it; nothing for None."""
        return "" if value is None else format(value, self.form)


PLACE = ("id", "step", "steps_not_taken", "scored_positions")  # of a round's row in metrics.json, beside its measures
MEASURES = {
    "forward_kl": Measure(title="forward KL", form=".3f", unit="nats a token", at_teacher=0.0),
    "reverse_kl": Measure(title="reverse KL", form=".3f", unit="nats a token", at_teacher=0.0),
    "top1_agreement": Measure(title="top-1 agreement", form=".1%", at_teacher=1.0),
    "teacher_logp": Measure(title="teacher's log-likelihood", form=".3f", unit="nats a token"),
    "bleu": Measure(title="BLEU", form=".1f"),
    "chrf": Measure(title="chrF", form=".1f"),
    "rouge_1": Measure(title="ROUGE-1", form=".3f"),
    "rouge_2": Measure(title="ROUGE-2", form=".3f"),
    "rouge_l": Measure(title="ROUGE-L", form=".3f"),
    "exact_match": Measure(title="exact match", form=".1%"),
    "reward": Measure(title="reward", form=".3f"),
    "eos_share": Measure(title="ends with eos", form=".1%"),
    "loss": Measure(title="training loss", unit="nats a token"),
    "grad_norm": Measure(title="gradient norm"),
    "learning_rate": Measure(title="learning rate"),
    "tokens": Measure(title="completion tokens a step", form=",.0f"),
    "read_tokens": Measure(title="tokens read a step", form=",.0f"),
    "own_share": Measure(title="share of the student's own rollouts", form=".1%"),
    "staleness_kl": Measure(title="staleness of the rollouts", unit="nats a token"),
    "effective_share": Measure(title="effective sample of the rollouts", form=".1%"),
    "clipped_share": Measure(title="tokens that PPO would clip", form=".1%"),
    "truncated_share": Measure(title="completions that were cut", form=".1%"),
    "compared_tokens": Measure(title="tokens compared for staleness", form=",.0f"),
    "teacher_tail": Measure(title="teacher's mass outside its entries", form=".3f"),
}


def measure(key: str) -> Measure:
    """A known measure, one of sampled completions, or one whose title is its name."""
    if key.startswith(_SAMPLED):
        greedy = measure(key.removeprefix(_SAMPLED))
        return replace(greedy, title=f"{greedy.title}, sampled")
    return MEASURES.get(key) or Measure(title=key.replace("_", " "))
