"""Sample completions of the held-out prompts, greedily and at other temperatures, and score them.

A metric of greedy completions has its plain name, such as `rouge_l`, and `rouge_l_at_0.6` is about completions at
temperature 0.6. `entropy`, `eos_share` and `reward` are about completions at temperature 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision, Prompt
from pipeline.evaluation.measurements import Measurements, jackknifed, of_mean, of_ratio
from pipeline.metrics.diversity import distinct_bigrams
from pipeline.metrics.rewards import Weights, completion_rewards
from pipeline.metrics.rouge import rouge_l
from pipeline.rollout.collect import Decode
from pipeline.rollout.sampler import Sampled, Sampler
from pipeline.runtime.config import Count, NonNegative, Positive
from pipeline.runtime.progress import bar
from pipeline.tasks import Judged, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationParams:
    """The size and the precision of an evaluation."""

    prompts: Positive
    """Held-out prompts."""
    batch_size: Positive
    """Prompts per batch. Their completions at all temperatures are sampled together."""
    max_new_tokens: Positive
    """Tokens after which a completion is cut. References are read up to here."""
    temperatures: tuple[NonNegative, ...]
    """Temperatures of the completions; 0 (greedy) and 1 are among them. Each costs the time of its completions."""
    precision: Precision
    """Number format of the sampler, and of both bodies in the comparison."""
    recorded_prompts: Count
    """The number of prompts, from the first, whose completions are recorded token by token for the report."""
    stop_if_worse: bool
    """Whether later rounds keep the model of the first round that is worse (not only in part) than the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """Completions of the held-out prompts by temperature, each list in the order of the prompts."""

    at: Mapping[float, list[Sampled]]

    @property
    def greedy(self) -> list[Sampled]:
        """The completions at temperature 0."""
        return self.at[0.0]

    @property
    def sampled(self) -> list[Sampled]:
        """The completions at temperature 1."""
        return self.at[1.0]

    @property
    def tokens(self) -> int:
        """The number of tokens of all completions."""
        return sum(len(completion.token_ids) for completions in self.at.values() for completion in completions)


def complete(prompts: Sequence[Prompt], sampler: Sampler, p: EvaluationParams, *, title: str) -> Completions:
    """Return completions of all prompts at all temperatures.

    Raises:
        DataError: When a prompt and a completion do not fit into the model's context.
    """
    # The last bits of a completion depend on its place in the batch: at temperature 1 first, then greedily, always.
    temperatures = list(dict.fromkeys([1.0, 0.0, *p.temperatures]))
    by_prompt: dict[int, tuple[Sampled, ...]] = {}
    with bar(title, len(temperatures) * p.max_new_tokens * len(prompts)) as meter:
        for chunk in batches_by_length(prompts, p.batch_size):
            prompts_ids = [prompts[index].prompt_ids for index in chunk]
            sample_ids = [f"evaluate/{prompts[index].prompt_id}" for index in chunk]
            params = [
                sampling_alone(p.max_new_tokens, temperature=temperature) for temperature in temperatures for _ in chunk
            ]
            count = len(temperatures)
            completions = sampler.sample(prompts_ids * count, sample_ids * count, params)
            by_temperature = [completions[start :: len(chunk)] for start in range(len(chunk))]
            by_prompt |= zip(chunk, map(tuple, by_temperature), strict=True)
            meter.update(sum(len(completion.token_ids) for completion in completions))
        meter.total = meter.n
    columns = zip(*(by_prompt[index] for index in range(len(prompts))), strict=True)
    return Completions(at={t: list(column) for t, column in zip(temperatures, columns, strict=True)})


def batches_by_length(prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Return the indices of all prompts in batches, the shortest prompts first."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].prompt_ids))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def sampling_alone(max_new_tokens: int, *, temperature: float) -> Sampling:
    """Return how completions are sampled of which nothing but their tokens is used."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=1.0,
        record_threshold=1.0,
        record_max=0,
        record_tail_samples=0,
    )


def judge(task: Task, prompts: Sequence[Prompt], completions: Sequence[Sampled], decode: Decode) -> list[Judged]:
    """Return the text and the task's score of each completion, in the order of the prompts."""
    texts = [decode(completion.token_ids) for completion in completions]
    return [
        Judged(text=text, references=prompt.references, score=task.score(text, prompt.references))
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def completion_metrics(
    task: Task,
    prompts: Sequence[Prompt],
    completions: Completions,
    decode: Decode,
    weights: Weights,
    teacher_texts: Mapping[str, str] | None,
) -> tuple[Measurements, list[Judged]]:
    """Return the metrics of a model's completions, and its greedy completions with their scores.

    Args:
        task: The task, which defines the metrics.
        prompts: The held-out prompts.
        completions: The completions, in the order of the prompts.
        decode: Turns token ids into text.
        weights: The weights of the reward functions; without weights there is no metric `reward`.
        teacher_texts: The teacher's greedy completions by prompt id; None for the teacher itself.

    Raises:
        ParameterError: When a reward function does not exist.
        DataError: When a reward function returns no finite number.
    """
    metrics: Measurements = {}
    judged = {t: judge(task, prompts, samples, decode) for t, samples in completions.at.items()}

    def headline(part: Sequence[Judged]) -> dict[str, float]:
        return {task.headline: task.metrics(part)[task.headline]}

    for temperature in sorted(judged):
        texts, suffix = judged[temperature], f"_at_{temperature:g}" if temperature else ""
        of_task = jackknifed(prompts, texts, headline if temperature else task.metrics)
        distinct = jackknifed(prompts, texts, _distinct)
        metrics |= {f"{name}{suffix}": measurement for name, measurement in (of_task | distinct).items()}
    if teacher_texts is not None:
        pairs = zip(prompts, judged[0.0], strict=True)
        likeness = [rouge_l(greedy.text, [teacher_texts[prompt.prompt_id]]) for prompt, greedy in pairs]
        metrics["teacher_rouge_l"] = of_mean(prompts, likeness)
    sampled = completions.sampled
    metrics["eos_share"] = of_mean(prompts, [float(sample.finished) for sample in sampled])
    # The mean of -log q over tokens drawn from q is an unbiased estimate of q's entropy.
    nats, tokens = [-sum(sample.logp) for sample in sampled], [len(sample.token_ids) for sample in sampled]
    metrics["entropy"] = of_ratio(prompts, nats, tokens)
    answers = [(text.text, len(s.token_ids), s.finished) for text, s in zip(judged[1.0], sampled, strict=True)]
    if rewards := completion_rewards(prompts, answers, weights):
        metrics["reward"] = of_mean(prompts, rewards)
    return metrics, judged[0.0]


def _distinct(texts: Sequence[Judged]) -> dict[str, float]:
    return {"distinct_bigrams": distinct_bigrams([judged.text for judged in texts])}


def cut_warning(completions: Completions, limit: int) -> str | None:
    """Return a warning where most sampled completions were cut at `limit` tokens, so that metrics see beginnings."""
    cut, count = sum(not completion.finished for completion in completions.sampled), len(completions.sampled)
    if 2 * cut <= count:
        return None
    where = f"evaluation.max_new_tokens ({limit})"
    return f"{cut} of {count} sampled completions were cut at {where}; raise it, or train longer"
