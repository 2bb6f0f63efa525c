"""Answers of arithmetic that begin with a mistake: teachers learn to go on from them, and models are measured on them.

The prompt is a question with whole lines of its worked answer, one of which is wrong. The reference is the rest of the
right answer: "12 + 5 = 16" goes on with "17 - 8 = 9". The mistake is a wrong number or sign in the place of
one that is copied from the question, or a wrong result; lines after the mistake may go on from the wrong value.

* SFT reads the tokens of references alone, so a teacher learns no mistakes.
* Guarantee: prompt and reference are the tokens of one answer, cut in front of a newline. A student that writes this
  beginning token by token has the same prompt and beginning.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.evidence.places import STUDENT, last_round
from bench.output import Row
from pipeline.core.files import read_prompts
from pipeline.core.hashing import derive_seed
from pipeline.core.types import Prompt
from pipeline.evaluation.completions import EvaluationParams, complete, judge
from pipeline.models.tokenizer import (
    Tokenizer,
    completion_decoder,
    eos_ids,
    load_tokenizer,
    reference_ids,
    shared_vocab,
)
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import section
from pipeline.runtime.layout import Layout
from pipeline.tasks import find_task

_LINE = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")
_SLIPS = ("first", "sign", "second", "result")  # the part of a line that is wrong


def add_mistakes(home: Path, prompts: Sequence[Prompt], model: Path, count: int) -> list[Prompt]:
    """Return the prompts of a project and, for each, `count` beginnings of its answer with a mistake.

    Args:
        home: The project.
        prompts: The prompts.
        model: The model that reads them.
        count: The beginnings per prompt.
    """
    if not count:
        return list(prompts)
    tokenizer, largest = load_tokenizer(model), _largest(home)
    begun = [begin_wrongly(prompt, tokenizer, largest, number) for prompt in prompts for number in range(count)]
    return [*prompts, *begun]


def _largest(home: Path) -> int:
    """Return the largest number that stands in the place of another one: the largest result."""
    return section(Layout(home).params, int, "task", "settings", "max_value")


def begin_wrongly(prompt: Prompt, tokenizer: Tokenizer, largest: int, number: int) -> Prompt:
    """Return a prompt that goes on into its answer and makes a mistake there.

    Args:
        prompt: A problem with a worked answer.
        tokenizer: The model's tokenizer.
        largest: The largest number that stands in the place of another one.
        number: Another number gives another mistake.
    """
    lines = prompt.references[0].split("\n")
    chance = random.Random(derive_seed(0, "mistake", prompt.prompt_id, number))
    begun: list[str] = []
    while not begun:
        begun = _wrong_lines(lines[:-1], largest, chance)
    prefix, rest = "\n".join(begun), "\n".join(["", *lines[len(begun) :]])
    *begun_ids, _ = reference_ids(tokenizer, prompt.prompt_text, prefix)  # without the end token
    ids = reference_ids(tokenizer, prompt.prompt_text, prefix + rest)
    assert ids[: len(begun_ids)] == begun_ids, "no token holds the end of a line and the newline after it"
    return replace(
        prompt,
        prompt_id=f"{prompt.prompt_id}/mistake-{number}",
        prompt_ids=[*prompt.prompt_ids, *begun_ids],
        reference_ids=ids[len(begun_ids) :],
        prompt_text=prompt.prompt_text + prefix,
    )


def _wrong_lines(lines: Sequence[str], largest: int, chance: random.Random) -> list[str]:
    """Return the first lines of an answer with a mistake in one of them, or nothing where a result is below 1."""
    wrong = chance.randrange(len(lines))
    begun, off = [], 0  # how much larger the last result is than the right one
    for place, line in enumerate(lines[: chance.randrange(wrong, len(lines)) + 1]):
        match = _LINE.fullmatch(line)
        assert match, "a worked answer has a sum or a difference per line"
        slip = chance.choice(_SLIPS) if place == wrong else ""
        first, sign, second, right = int(match[1]) + off, match[2], int(match[3]), int(match[4])
        first, second = (
            _other(value, largest, chance) if slip == part else value
            for part, value in (("first", first), ("second", second))
        )
        if slip == "sign":
            sign = "-" if sign == "+" else "+"
        result = first + second if sign == "+" else first - second
        result = _other(result, largest, chance) if slip == "result" else result
        if result < 1:
            return []
        begun.append(f"{first} {sign} {second} = {result}")
        off = result - right
    return begun


def _other(value: int, largest: int, chance: random.Random) -> int:
    return chance.choice([number for number in range(1, largest + 1) if number != value])


def measure_student(home: Path) -> Row:
    """Return the repairs of the last checkpoint of a run or a start."""
    return measure_repairs(home, Layout(home).round(STUDENT, last_round(home)).model)


def measure_repairs(home: Path, model: Path) -> Row:
    """Return the exact match of a model that goes on after mistakes: `repaired`, greedily, and `repaired_at_1`.

    Args:
        home: The project or run with the held-out prompts, each of which gets one mistake.
        model: The model directory.
    """
    p, tokenizer = section(Layout(home).params, EvaluationParams, "evaluation"), load_tokenizer(model)
    heldout = read_prompts(Layout(home).prompts, "heldout")[: p.prompts]
    prompts = [begin_wrongly(prompt, tokenizer, _largest(home), 0) for prompt in heldout]
    ends, vocab = eos_ids(tokenizer), shared_vocab(tokenizer)
    sampler = HFSampler(model, precision=p.precision, vocab=vocab, eos_ids=ends, seed=0)
    completions, task = complete(prompts, sampler, p, title="repair"), find_task("arithmetic")
    shares = {}
    for key, samples in (("repaired", completions.greedy), ("repaired_at_1", completions.sampled)):
        judged = judge(task, prompts, samples, completion_decoder(tokenizer))
        shares[key] = task.metrics(judged)[task.headline]
    return shares
