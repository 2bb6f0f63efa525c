"""The stories task: the judge writes the data, and says how likely it finds a continuation.

A case is the beginning of a story, a fixed number of words, and what the judge wrote after it. Both are cut between two
words, so the model goes on in the middle of a sentence.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.evidence.places import JUDGE, STUDENT, last_round
from bench.output import Row
from pipeline.core.files import read_prompts
from pipeline.evaluation.agreement import negative_logp
from pipeline.evaluation.completions import sampling_alone
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import completion_decoder, eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.atomic import whole_directory
from pipeline.runtime.config import Positive
from pipeline.runtime.files import read_json, read_rows
from pipeline.runtime.layout import Layout
from pipeline.runtime.progress import bar
from schemas.comparison import COMPARISON

_BATCH = 16  # continuations that the judge reads together: at 60 tokens each, 120 MB of logits
_HELDOUT, _TRAIN = "heldout.jsonl", "train.jsonl"
_BEGIN = "<s>"  # the token in front of a story, which ends the story before it too


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryParams:
    """The section `stories` of bench/evidence/params.yaml."""

    train: Positive
    heldout: Positive
    opening_words: Positive
    continuation_words: Positive
    max_tokens: Positive
    """Tokens of the judge after which a story is cut."""
    batch_size: Positive
    seed: int


def write_stories(judge: Path, out: Path, p: StoryParams) -> None:
    """Write heldout.jsonl and train.jsonl with the columns `opening` and `continuation`.

    Stories that are too short, and openings that came before, are left out.
    """
    tokenizer = load_tokenizer(judge)
    ends, decode = eos_ids(tokenizer), completion_decoder(tokenizer)
    sampler = HFSampler(judge, precision="auto", vocab=shared_vocab(tokenizer), eos_ids=ends, seed=p.seed)
    sampling = sampling_alone(p.max_tokens, temperature=1.0)
    cases: dict[str, str] = {}
    written, batch = p.train + p.heldout, 0
    with bar("write stories", written, unit="stories") as meter:
        while len(cases) < written:
            names = [f"story/{batch}/{row}" for row in range(p.batch_size)]
            for sampled in sampler.sample([[tokenizer.bos_token_id]] * p.batch_size, names, sampling):
                words = decode(sampled.token_ids).strip().split(" ")[: p.opening_words + p.continuation_words]
                if len(words) == p.opening_words + p.continuation_words:
                    cases.setdefault(" ".join(words[: p.opening_words]), " ".join(words[p.opening_words :]))
            batch += 1
            meter.update(min(len(cases), written) - meter.n)
    rows = [json.dumps({"opening": opening, "continuation": rest}) for opening, rest in cases.items()]
    with whole_directory(out) as folder:
        for name, part in ((_HELDOUT, rows[: p.heldout]), (_TRAIN, rows[p.heldout : written])):
            (folder / name).write_text("\n".join(part) + "\n", encoding="utf-8")


class Judge:
    """A language model that says how likely it finds continuations."""

    def __init__(self, path: Path) -> None:
        """Load the model."""
        self._tokenizer, self._model = load_tokenizer(path), lm.load_model(path)
        self._head = lm.head_of(self._model, shared_vocab(self._tokenizer))

    def nats_per_byte(self, pairs: Sequence[tuple[str, str]]) -> float:
        """Return the negative log-likelihood of the continuations in pairs of opening and continuation, per byte."""
        return sum(self.nats(pairs)) / sum(len(continuation.encode()) for _, continuation in pairs)

    @torch.inference_mode()
    def nats(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """Return the negative log-likelihood of each continuation of its opening, in nats.

        A continuation is what follows the tokens that the opening and the whole text share. An empty one has 0 nats.
        """
        pairs = []
        for opening, continuation in texts:
            start, whole = (self._tokenizer(text)["input_ids"] for text in (opening, opening + continuation))
            shared = next((i for i, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(start))
            pairs.append((whole[:shared], whole[shared:]))
        nats = [0.0] * len(pairs)
        order = sorted((row for row in range(len(pairs)) if pairs[row][1]), key=lambda row: len(pairs[row][1]))
        for begin in range(0, len(order), _BATCH):
            rows = order[begin : begin + _BATCH]
            prompts, rest = [pairs[row][0] for row in rows], [pairs[row][1] for row in rows]
            hidden_ND = lm.completion_hidden(self._model, prompts, rest)
            for row, of_text in zip(rows, negative_logp(self._head, hidden_ND, rest), strict=True):
                nats[row] = of_text
        return nats


def measure_by_judge(home: Path) -> Row:
    """Return the judge's nats per byte of what the last checkpoint of a run or a start completed.

    `nats_per_byte` is its negative log-likelihood of the samples at temperature 1, and `nats_per_byte_greedy` of the
    greedy completions.
    """
    evaluation = Layout(home).evaluation(f"{STUDENT}-{last_round(home)}")
    sampled: dict[str, str] = {}
    for row in read_rows(evaluation.with_suffix(".parquet"), COMPARISON):
        sampled[row["prompt_id"]] = sampled.get(row["prompt_id"], "") + row["token"].replace(_BEGIN, "")
    greedy = {text["prompt_id"]: text["text"] for text in read_json(evaluation)["texts"]}
    prompts = read_prompts(Layout(home).prompts, "heldout")
    openings = {prompt.prompt_id: prompt.prompt_text.removeprefix(_BEGIN) for prompt in prompts}
    judge = Judge(JUDGE)
    return {
        "nats_per_byte": judge.nats_per_byte([(openings[key], text) for key, text in sampled.items()]),
        "nats_per_byte_greedy": judge.nats_per_byte([(openings[key], text) for key, text in greedy.items()]),
    }
