"""Sample completions with a transformers model in this process.

A plain decode loop: sampling by the inverse CDF with uniform numbers keyed by (seed, sample id). Finished rows leave
the batch and the cache, and a prompt is read once for all its completions.

* Guarantee: the random numbers of a completion do not depend on its batch. The last bits of the logits do, so callers
  keep batches fixed.
* Shapes: B completions of a batch, V vocabulary, T positions, J tail samples per position.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
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
from pipeline.models.finite import NoDistributionError, check_distributions, not_finite
from pipeline.rollout.sampler import Sampled


class HFSampler:
    """A sampler of completions from a model directory."""

    def __init__(self, path: Path, *, precision: Precision, vocab: int, eos_ids: Sequence[int], seed: int) -> None:
        """Load the model.

        Args:
            path: A model directory, or an adapter's.
            precision: Number format of the weights.
            vocab: Only the first `vocab` token ids are sampled.
            eos_ids: The tokens that end a completion.
            seed: The seed of all random numbers, beside the sample ids.

        Raises:
            ModelError: When the model cannot be loaded, or has fewer tokens than `vocab`.
        """
        self._path, self._context = path, context_of(path)
        self._dtype = lm.resolve_dtype(precision)
        self._model = lm.load_model(path, dtype=self._dtype)
        lm.check_vocabulary(self._model, vocab, where=path)
        self._vocab, self._eos_ids, self._seed = vocab, torch.tensor(list(eos_ids)), seed

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the model, which rollouts record; it reads all weights, about 1 s per GB."""
        return model_fingerprint(self._path)

    @torch.inference_mode()
    def sample(
        self, prompts_ids: Sequence[list[int]], sample_ids: Sequence[str], sampling: Sampling | Sequence[Sampling]
    ) -> list[Sampled]:
        """Return one completion for each prompt of a batch; see `Sampler.sample`.

        Raises:
            DataError: When a prompt and a completion do not fit into the model's context.
            ModelError: When the model's logits contain NaN or infinity.
        """
        params = [sampling] * len(prompts_ids) if isinstance(sampling, Sampling) else list(sampling)
        limit_B = np.array([p.max_new_tokens for p in params])
        longest = int(limit_B.max())
        for prompt, limit in zip(prompts_ids, limit_B.tolist(), strict=True):
            self._context.check(len(prompt), limit, where="sampling")
        uniform_BT = np.stack([self._uniforms(longest, sample_id) for sample_id in sample_ids])
        tail_uniform_BT = np.stack([self._uniforms(longest, sample_id, "tail") for sample_id in sample_ids])
        completions = [Sampled(token_ids=[], logp=[], finished=False) for _ in prompts_ids]
        distinct, prompt_of_B = distinct_prompts(prompts_ids)
        decoding = lm.Decoding(self._model, distinct, prompt_of_B)
        live = np.arange(len(completions))  # the unfinished completions, which are the rows of the decoder
        for step in range(longest):
            logits_BV = decoding.logits_BV[:, : self._vocab].float()
            next_B = torch.zeros(len(live), dtype=torch.long)
            # Rows with equal parameters are sampled together.
            for p in dict.fromkeys(params[index] for index in live):
                rows = [row for row, index in enumerate(live) if params[index] == p]
                group_BV = logits_BV if len(rows) == len(live) else logits_BV[rows]
                group = live[rows]
                uniforms = uniform_BT[group, step], tail_uniform_BT[group, step]
                try:
                    next_B[rows] = _append_tokens([completions[index] for index in group], group_BV, *uniforms, p)
                except NoDistributionError as error:
                    index = group[error.row]
                    read = [*prompts_ids[index], *completions[index].token_ids]
                    where, at = f"sampling {sample_ids[index]}", f"completion token {step}, after token id {read[-1]}"
                    raise not_finite(self._model, where, at, self._dtype) from None
            unfinished = ~torch.isin(next_B, self._eos_ids) & torch.from_numpy(step + 1 < limit_B[live])
            if not unfinished.any():
                break
            decoding.select(unfinished)
            live = live[unfinished.numpy()]
            decoding.step(next_B[unfinished])
        eos = set(self._eos_ids.tolist())
        return [replace(completion, finished=completion.token_ids[-1] in eos) for completion in completions]

    def _uniforms(self, count: int, *key: str) -> np.ndarray:
        return np.random.Generator(np.random.Philox(derive_seed(self._seed, *key))).random(count)


def _append_tokens(
    completions: Sequence[Sampled], logits_BV: Tensor, uniform_B: np.ndarray, tail_uniform_B: np.ndarray, p: Sampling
) -> Tensor:
    """Append one token to each completion, with all that is recorded of its position, and return the tokens [B]."""
    q_BV = logits_BV.softmax(-1)
    check_distributions(q_BV)
    token_B, logp_B = sample_next_token(logits_BV, q_BV, uniform_B, p)
    support = tokens_above_threshold(q_BV, p)
    tail, offset_B = sample_tail_tokens(logits_BV, q_BV, support, tail_uniform_B, p)
    columns = (token_B.tolist(), logp_B.tolist(), support, tail, offset_B)
    for completion, token, logp, support_ids, tail_ids, offset in zip(completions, *columns, strict=True):
        completion.token_ids.append(token)
        completion.logp.append(logp)
        completion.support_ids.append(support_ids)
        completion.tail_sample_ids.append(tail_ids)
        completion.tail_offset.append(offset)
    return token_B.cpu()


def sample_next_token(
    logits_BV: Tensor, q_BV: Tensor, uniform_B: np.ndarray, sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Sample the next tokens.

    Args:
        logits_BV: Logits of the next token.
        q_BV: Their softmax, which is the distribution at temperature 1 without a nucleus.
        uniform_B: One number in [0, 1) per row.
        sampling: Temperature and nucleus.

    Returns:
        Tokens [B], and their log-probs [B] in nats after temperature and nucleus; 0 when sampling greedily.
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
    """Return the distributions [B, V] over the smallest sets of likeliest tokens with mass >= top_p.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    ordered_BV, order_BV = q_BV.sort(-1, descending=True)
    before_BV = ordered_BV.cumsum(-1) - ordered_BV
    nucleus_BV = ordered_BV.masked_fill(before_BV >= top_p, 0.0)
    return torch.empty_like(q_BV).scatter_(-1, order_BV, nucleus_BV / nucleus_BV.sum(-1, keepdim=True))


def tokens_above_threshold(q_BV: Tensor, sampling: Sampling) -> list[list[int]]:
    """Return for each row at most `record_max` ids with probability above `record_threshold`, the likeliest first."""
    ids_of: list[list[int]] = [[] for _ in q_BV]
    if sampling.record_max == 0:
        return ids_of
    rows, ids = (q_BV > sampling.record_threshold).nonzero(as_tuple=True)
    order = q_BV[rows, ids].sort(descending=True, stable=True).indices
    for row, token in zip(rows[order].tolist(), ids[order].tolist(), strict=True):
        if len(ids_of[row]) < sampling.record_max:
            ids_of[row].append(token)
    return ids_of


def sample_tail_tokens(
    logits_BV: Tensor, q_BV: Tensor, support: Sequence[list[int]], uniform_B: np.ndarray, sampling: Sampling
) -> tuple[list[list[int]], list[float]]:
    """Sample `record_tail_samples` tokens per row from the softmax outside the support.

    The samples are systematic: equal steps through the inverse CDF from one uniform number. Each sample has the
    distribution of a single one, and because token ids are ordered by frequency, the samples spread over frequent and
    rare tokens.

    The offset is a control variate for the teacher's mean log-prob over the tail: the remaining error is that of the
    log-ratio of teacher and sampling policy. With 16 samples of a student 0.25 nats from its teacher it is 0.03 instead
    of 0.09 nats (docs/decisions/005-tail-mean.md). The normaliser cancels, so logits serve as log-probs.

    Args:
        logits_BV: Logits of the next token.
        q_BV: Their softmax, which is overwritten.
        support: The ids to leave out of each row's tail.
        uniform_B: One number in [0, 1) per row.
        sampling: The number of samples.

    Returns:
        The ids of each row, none where the tail has no mass, and the offset of each row in nats: the mean log-prob over
        the tail minus the mean log-prob of its samples.
    """
    m = sampling.record_tail_samples
    ids_of: list[list[int]] = [[] for _ in q_BV]
    offsets = [0.0] * len(q_BV)
    if m == 0:
        return ids_of, offsets
    pairs = [(row, token) for row, ids in enumerate(support) for token in ids]
    q_BV[torch.tensor(pairs, dtype=torch.long, device=q_BV.device).reshape(-1, 2).unbind(-1)] = 0.0
    mass_B = q_BV.sum(-1)
    rows = (mass_B > 0).nonzero()[:, 0]
    uniform_BJ = (torch.from_numpy(uniform_B).to(q_BV.device)[rows, None] + torch.arange(m, device=q_BV.device)) / m
    sample_BJ = inverse_cdf(q_BV, rows.repeat_interleave(m), uniform_BJ.flatten()).reshape(-1, m)
    mean_B = expectation(q_BV, logits_BV)[rows] / mass_B[rows]
    offset_B = mean_B - logits_BV[rows[:, None], sample_BJ].mean(-1)
    for row, ids, offset in zip(rows.tolist(), sample_BJ.tolist(), offset_B.tolist(), strict=True):
        ids_of[row], offsets[row] = ids, offset
    return ids_of, offsets
