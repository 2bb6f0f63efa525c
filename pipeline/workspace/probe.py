"""Ask the teacher: how long its completions are, how fast this machine is, and how far a ready-made student is.

`max_new_tokens` must fit what the teacher and its student write, and not the answers in the data, which a chat model
never writes as short. So a few prompts are completed at temperature 1, first up to 256 tokens, and those that did not
end up to 1,024. A student that is used as it is reads the beginnings of the same completions.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.losses.divergences import kl_terms
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import Tokenizer, eos_ids
from pipeline.runtime.progress import bar

CAPS = (256, 1024)  # tokens
_SECONDS = 60.0  # the longest time of each of the two attempts
STEP = 16  # lengths are multiples of it
_COMPARED = 32  # tokens of each completion that a student reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A few completions of the teacher."""

    texts: list[tuple[list[int], list[int]]]  # token ids of each prompt and its completion, the end token included
    finished: list[bool]
    sampled_tokens_per_s: float  # over all completions of the batch
    read_tokens_per_s: float

    @property
    def lengths(self) -> list[int]:
        """The tokens of each completion, its end token included."""
        return [len(completion) for _, completion in self.texts]

    @property
    def ended(self) -> list[int]:
        """The lengths of the completions that ended."""
        return [length for length, finished in zip(self.lengths, self.finished, strict=True) if finished]


def ask_teacher(model: Any, tokenizer: Tokenizer, prompts: Sequence[list[int]], limit: int) -> Probe:
    """Return one completion per prompt, and the speeds.

    Args:
        model: The teacher.
        tokenizer: Its tokenizer.
        prompts: The token ids of the prompts.
        limit: The greatest length of a completion that the context admits, in tokens.
    """
    torch.manual_seed(0)
    ends = eos_ids(tokenizer)
    finished, seconds = [False] * len(prompts), 0.0
    completions: list[list[int]] = [[] for _ in prompts]
    with bar("ask the teacher", len(CAPS), unit="attempts") as meter:
        for cap in sorted({min(cap, limit) for cap in CAPS}):
            open_ = [index for index, ended in enumerate(finished) if not ended]
            began = time.monotonic()
            for index, ids in zip(open_, _complete(model, ends, [prompts[i] for i in open_], cap), strict=True):
                completions[index], finished[index] = ids, ids[-1:] != [] and ids[-1] in ends
            seconds += time.monotonic() - began
            meter.update()
            if sum(finished) * 4 >= 3 * len(finished):
                break
    return Probe(
        texts=list(zip(prompts, completions, strict=True)),
        finished=finished,
        sampled_tokens_per_s=sum(map(len, completions)) / max(seconds, 1e-3),
        read_tokens_per_s=_reading_speed(model, prompts),
    )


@torch.inference_mode()
def _complete(model: Any, ends: Sequence[int], prompts: Sequence[list[int]], cap: int) -> list[list[int]]:
    """Return the token ids of a completion of each prompt, its end token included."""
    longest = max(map(len, prompts))
    rows = [[ends[0]] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    tokens_BT = model.generate(
        torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=list(ends),
        pad_token_id=ends[0],
        max_new_tokens=cap,
        max_time=_SECONDS,
    )
    # A decoder's output begins with the prompt, an encoder-decoder's with its start token.
    skipped = longest if tokens_BT.shape[1] > longest and tokens_BT[0, :longest].tolist() == rows[0] else 1
    return [_until_end(row, ends) for row in tokens_BT[:, skipped:].tolist()]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    first = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    return ids[: first + 1]


@torch.inference_mode()
def _reading_speed(model: Any, prompts: Sequence[list[int]]) -> float:
    """Return the prompt tokens per second of one forward pass over a prompt, repeated to a batch."""
    ids = torch.tensor([max(prompts, key=len)] * 4, device=model.device)
    encoder = model.get_encoder() if hasattr(model, "get_encoder") else None
    body = encoder if encoder is not None and encoder is not model else model
    body(ids)  # warm
    began = time.monotonic()
    body(ids)
    return ids.numel() / max(time.monotonic() - began, 1e-4)


@torch.inference_mode()
def distance(teacher: Any, student: Any, probe: Probe, vocab: int) -> float:
    """Return the forward KL from teacher to student at the beginnings of the teacher's completions, in nats per token.

    Args:
        teacher: The teacher.
        student: The student.
        probe: The completions, at least one of them with a token.
        vocab: Only the first so many token ids are compared.
    """
    written = [(prompt, completion[:_COMPARED]) for prompt, completion in probe.texts if completion]
    texts = [prompt for prompt, _ in written], [completion for _, completion in written]
    logp_NV, logq_NV = (
        lm.head_of(model, vocab)(lm.completion_hidden(model, *texts)).float().log_softmax(-1)
        for model in (teacher, student)
    )
    return float(kl_terms(logp_NV, logq_NV).sum(-1).mean())


def rounded(length: float, limit: int) -> int:
    """Return a length in steps of 16 tokens, within a limit."""
    return max(1, min(limit, STEP * math.ceil(length / STEP)))


def quantile(lengths: Sequence[int]) -> int:
    """Return the length that 95 % do not exceed."""
    return sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
