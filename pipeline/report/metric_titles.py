"""Titles, units and number formats of a run's measures; a measure that is not listed appears under its own name."""

from dataclasses import dataclass, replace

_AT = "_at_"  # before the temperature of the completions that a metric is about; without it, they are greedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The title, the number format and the unit of a measure."""

    title: str
    format: str = ".4g"
    unit: str = ""

    def show(self, value: float | None) -> str:
        """Return the formatted value, and an empty string for None."""
        return "" if value is None else format(value, self.format)

    def show_with_error(self, value: float | None, error: float | None) -> str:
        """Return the formatted value with its standard error, where it is known."""
        return self.show(value) if value is None or error is None else f"{self.show(value)} ± {self.show(error)}"

    def show_change(self, before: tuple[float | None, float | None], after: tuple[float | None, float | None]) -> str:
        """Return two values with their errors and an arrow between them, and an empty string if neither exists."""
        shown = [self.show_with_error(*end) for end in (before, after)]
        return " → ".join(shown) if any(shown) else ""


MEASURES = {
    "forward_kl": Measure(title="forward KL", format=".3f", unit="nats per token"),
    "reverse_kl": Measure(title="reverse KL", format=".3f", unit="nats per token"),
    "top1_agreement": Measure(title="top-1 agreement", format=".1%"),
    "teacher_logp": Measure(title="teacher log-likelihood", format=".3f", unit="nats per token"),
    "reference_nll": Measure(title="NLL of references", format=".3f", unit="nats per token"),
    "entropy": Measure(title="entropy", format=".3f", unit="nats per token"),
    "bleu": Measure(title="BLEU", format=".1f"),
    "chrf": Measure(title="chrF", format=".1f"),
    "rouge_1": Measure(title="ROUGE-1", format=".3f"),
    "rouge_2": Measure(title="ROUGE-2", format=".3f"),
    "rouge_l": Measure(title="ROUGE-L", format=".3f"),
    "exact_match": Measure(title="exact match", format=".1%"),
    "teacher_rouge_l": Measure(title="ROUGE-L to the teacher", format=".3f"),
    "distinct_bigrams": Measure(title="distinct bigrams", format=".1%"),
    "reward": Measure(title="reward", format=".3f"),
    "eos_share": Measure(title="ends with eos", format=".1%"),
    "loss": Measure(title="training loss", unit="nats per token"),
    "grad_norm": Measure(title="gradient norm"),
    "learning_rate": Measure(title="learning rate"),
    "tokens": Measure(title="completion tokens per step", format=",.0f"),
    "read_tokens": Measure(title="tokens read per step", format=",.0f"),
    "own_share": Measure(title="share of student rollouts", format=".1%"),
    "staleness_kl": Measure(title="staleness of the rollouts", unit="nats per token"),
    "effective_share": Measure(title="effective sample size of the rollouts", format=".1%"),
    "clipped_share": Measure(title="share of tokens that PPO would clip", format=".1%"),
    "truncated_share": Measure(title="share of truncated completions", format=".1%"),
    "compared_tokens": Measure(title="tokens compared for staleness", format=",.0f"),
    "teacher_tail": Measure(title="teacher's probability outside the stored tokens", format=".3f"),
}


def measure(key: str) -> Measure:
    """Return the listed measure, its variant at a temperature, or a measure with the key as its title."""
    name, at, temperature = key.rpartition(_AT)
    if at:
        greedy = measure(name)
        return replace(greedy, title=f"{greedy.title} at {temperature}")
    return MEASURES.get(key) or Measure(title=key.replace("_", " "))


def rank(key: str) -> int:
    """Return the place of a measure in tables: that of the list, whatever the temperature; other measures follow."""
    name = key.partition(_AT)[0]
    return list(MEASURES).index(name) if name in MEASURES else len(MEASURES)
