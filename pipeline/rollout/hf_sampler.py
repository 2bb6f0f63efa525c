"""The engine that runs here: transformers models in this process.

The sampler is a plain decode loop: inverse-CDF sampling with uniforms keyed by (seed, sample id), finished rows
dropped from batch and cache, prompts read once for all their completions. Its draws do not depend on the batch; the
logits do, in the last bits, so callers keep batches fixed. The scorer pads what a batch reads to whole vectors of the
processor, 8 or 16 tokens: then each row is multiplied and added up by the same code, whatever is beside it, and a score
is a function of its sequence alone, bit for bit, in a batch of any size. So a warm store, a cold one and a resumed run
give the same bytes. That holds for decoders whose attention sees all (and for batches of one always), as tried on CPUs
with AVX2 and, for one number of threads, with AVX-512; elsewhere scores agree up to rounding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.core.hashing import derive_seed, model_fingerprint
from pipeline.core.prompt_sharing import distinct_prompts
from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision
from pipeline.models import language_model as lm
from pipeline.models.categorical import expectation, inverse_cdf
from pipeline.models.context import context_of
from pipeline.rollout.sampler import Sampled


class HFSampler:
    """Samples completions from a model directory."""

    def __init__(self, path: Path, *, precision: Precision, vocab: int, eos_ids: Sequence[int], seed: int) -> None:
        self.fingerprint = model_fingerprint(path)
        self._context = context_of(path)
        self._model = lm.load_model(path, dtype=lm.resolve_dtype(precision))
        lm.check_vocabulary(self._model, vocab, where=path)
        self._vocab, self._eos_ids, self._seed = vocab, torch.tensor(list(eos_ids)), seed

    @torch.inference_mode()
    def sample(
        self, prompts_ids: Sequence[list[int]], sample_ids: Sequence[str], sampling: Sampling | Sequence[Sampling]
    ) -> list[Sampled]:
        """One completion for each prompt; [B] in, [B] out."""
        ways = [sampling] * len(prompts_ids) if isinstance(sampling, Sampling) else list(sampling)
        limit_B = np.array([one.max_new_tokens for one in ways])
        most = int(limit_B.max())
        for prompt, limit in zip(prompts_ids, limit_B.tolist(), strict=True):
            self._context.check(len(prompt), limit, where="sampling")
        uniform_BT = np.stack([self._uniforms(most, one) for one in sample_ids])
        tail_uniform_BT = np.stack([self._uniforms(most, one, "tail") for one in sample_ids])
        tokens: list[list[int]] = [[] for _ in prompts_ids]
        logps: list[list[float]] = [[] for _ in prompts_ids]
        supports: list[list[list[int]]] = [[] for _ in prompts_ids]
        tails: list[list[list[int]]] = [[] for _ in prompts_ids]
        offsets: list[list[float]] = [[] for _ in prompts_ids]
        distinct, rows = distinct_prompts(prompts_ids)
        decoding = lm.Decoding(self._model, distinct, rows)
        live = np.arange(len(rows))
        for step in range(most):
            logits_BV = decoding.logits_BV[:, : self._vocab].float()
            next_B = torch.zeros(len(live), dtype=torch.long)
            for way in dict.fromkeys(ways[row] for row in live):
                alike = [place for place, row in enumerate(live) if ways[row] == way]
                some_BV = logits_BV if len(alike) == len(live) else logits_BV[alike]
                q_BV = some_BV.softmax(-1)
                drawn_B, logp_B = sample_next_token(some_BV, q_BV, uniform_BT[live[alike], step], way)
                next_B[alike] = drawn_B.cpu()
                named = tokens_above_threshold(q_BV, way)
                tail, offset = sample_tail_tokens(some_BV, q_BV, named, tail_uniform_BT[live[alike], step], way)
                token_B, each_logp_B = drawn_B.tolist(), logp_B.tolist()
                for at, row in enumerate(live[alike]):
                    tokens[row].append(token_B[at])
                    logps[row].append(each_logp_B[at])
                    supports[row].append(named[at])
                    tails[row].append(tail[at])
                    offsets[row].append(offset[at])
            going = ~torch.isin(next_B, self._eos_ids) & torch.from_numpy(step + 1 < limit_B[live])
            if not going.any():
                break
            decoding.select(going)
            live = live[going.numpy()]
            decoding.step(next_B[going])
        eos = set(self._eos_ids.tolist())
        return [
            Sampled(
                token_ids=ids,
                logp=logp,
                support_ids=support,
                tail_sample_ids=tail,
                tail_offset=offset,
                finished=ids[-1] in eos,
            )
            for ids, logp, support, tail, offset in zip(tokens, logps, supports, tails, offsets, strict=True)
        ]

    def _uniforms(self, count: int, *key: str) -> np.ndarray:
        return np.random.Generator(np.random.Philox(derive_seed(self._seed, *key))).random(count)


def sample_next_token(
    logits_BV: Tensor, q_BV: Tensor, uniform_B: np.ndarray, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probs [B] under the distribution sampled from (temperature and nucleus applied).

    `q_BV` is the softmax of the logits, which is all there is to do at temperature 1 without a nucleus.
    """
    if sampling.temperature == 0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, torch.zeros(len(tokens_B))
    if sampling.temperature != 1:
        q_BV = (logits_BV / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        q_BV = nucleus(q_BV, sampling.top_p)
    rows_B = torch.arange(len(q_BV), device=q_BV.device)
    tokens_B = inverse_cdf(q_BV, rows_B, torch.from_numpy(uniform_B).to(q_BV.device))
    return tokens_B, q_BV.gather(-1, tokens_B[:, None])[:, 0].log()


def nucleus(q_BV: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens with mass >= top_p, renormalised; the rest 0."""
    ordered_BV, order_BV = q_BV.sort(-1, descending=True)
    before_BV = ordered_BV.cumsum(-1) - ordered_BV
    kept_BV = ordered_BV.masked_fill(before_BV >= top_p, 0.0)
    return torch.empty_like(q_BV).scatter_(-1, order_BV, kept_BV / kept_BV.sum(-1, keepdim=True))


def tokens_above_threshold(q_BV: Tensor, sampling: Sampling) -> list[list[int]]:
    """For each row the ids with probability above the support threshold (temperature 1), the likeliest first."""
    found: list[list[int]] = [[] for _ in q_BV]
    if sampling.record_max == 0:
        return found
    rows, ids = (q_BV > sampling.record_threshold).nonzero(as_tuple=True)
    order = q_BV[rows, ids].sort(descending=True, stable=True).indices
    for row, token in zip(rows[order].tolist(), ids[order].tolist(), strict=True):
        if len(found[row]) < sampling.record_max:
            found[row].append(token)
    return found


def sample_tail_tokens(
    logits_BV: Tensor, q_BV: Tensor, named: Sequence[list[int]], uniform_B: np.ndarray, sampling: Sampling
) -> tuple[list[list[int]], list[float]]:
    """For each row `record_tail_samples` ids from the softmax without the named ones, or none where that leaves
    nothing; and how far their mean log-prob lies below that of all tokens they are drawn from. `q_BV`, the softmax of
    the logits, is used up.

    Systematic draws: m equal steps through the inverse CDF from one uniform number. Each is distributed as a single
    draw is, and as ids go by frequency they spread over frequent and rare tokens. The offset is
    a control variate for the teacher's mean log-prob over them: what it leaves of the error is that of the log-ratio of
    teacher and author, .03 nats for .09 over 16 (a student .25 nats from its teacher; docs/decisions.md). Normalisers
    cancel in it: it is the draws' mean logit below the tail's.
    """
    m = sampling.record_tail_samples
    found: list[list[int]] = [[] for _ in q_BV]
    offsets = [0.0] * len(q_BV)
    if m == 0:
        return found, offsets
    pairs = [(row, token) for row, ids in enumerate(named) for token in ids]
    q_BV[torch.tensor(pairs, dtype=torch.long, device=q_BV.device).reshape(-1, 2).unbind(-1)] = 0.0
    mass_B = q_BV.sum(-1)
    rows = (mass_B > 0).nonzero()[:, 0]
    uniform_BJ = (torch.from_numpy(uniform_B).to(q_BV.device)[rows, None] + torch.arange(m, device=q_BV.device)) / m
    drawn_BJ = inverse_cdf(q_BV, rows.repeat_interleave(m), uniform_BJ.flatten()).reshape(-1, m)
    mean_B = expectation(q_BV, logits_BV)[rows] / mass_B[rows]
    offset_B = mean_B - logits_BV[rows[:, None], drawn_BJ].mean(-1)
    for row, ids, offset in zip(rows.tolist(), drawn_BJ.tolist(), offset_B.tolist(), strict=True):
        found[row], offsets[row] = ids, offset
    return found, offsets
