"""The engine that runs here: transformers models in this process.

The sampler is a plain decode loop: inverse-CDF sampling with uniforms keyed by (seed, sample id), finished rows
dropped from batch and cache. Its draws do not depend on the batch; the logits do, in the last bits, so callers keep
batches fixed. The scorer runs a batch of one on a CPU, which costs 10-15 % of speed and makes a score a function of
its sequence alone: a warm store, a cold one and a resumed run give the same bytes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import lm
from pipeline.engines.base import Sampled, Sampling, ToScore
from pipeline.fingerprint import derive_seed, digest
from pipeline.lm import Precision
from pipeline.records import Scores
from pipeline.topk import SupportParams, truncate

_VERSION = 1  # raise it when the numbers of a score change


class HFSampler:
    """Samples completions from a model directory."""

    def __init__(self, path: Path, *, precision: Precision, vocab: int, eos_ids: Sequence[int], seed: int) -> None:
        self.fingerprint = lm.model_fingerprint(path)
        self._limit = lm.context_length(path)
        self._model = lm.load_model(path, dtype=lm.resolve_dtype(precision))
        lm.check_vocabulary(self._model, vocab, where=path)
        self._vocab, self._eos_ids, self._seed = vocab, torch.tensor(list(eos_ids)), seed

    @torch.inference_mode()
    def sample(self, prompts_ids: Sequence[list[int]], sample_ids: Sequence[str], sampling: Sampling) -> list[Sampled]:
        """One completion for each prompt; [B] in, [B] out."""
        lm.check_context(self._limit, max(map(len, prompts_ids)) + sampling.max_new_tokens, where="sampling")
        uniform_BT = np.stack([self._uniforms(one, sampling.max_new_tokens) for one in sample_ids])
        tokens: list[list[int]] = [[] for _ in prompts_ids]
        logps: list[list[float]] = [[] for _ in prompts_ids]
        supports: list[list[list[int]]] = [[] for _ in prompts_ids]
        ids_BP, mask_BP = _left_padded(prompts_ids)
        live = np.arange(len(prompts_ids))
        cache = None
        inputs, positions = ids_BP, (mask_BP.cumsum(-1) - 1).clamp(min=0)
        for step in range(sampling.max_new_tokens):
            result = self._model(
                input_ids=inputs.to(self._model.device),
                attention_mask=mask_BP.to(self._model.device),
                position_ids=positions.to(self._model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = result.past_key_values
            logits_BV = result.logits[:, -1, : self._vocab].float()
            next_B, logp_B = draw(logits_BV, uniform_BT[live, step], sampling)
            for row, token, logp, support in zip(
                live, next_B.tolist(), logp_B.tolist(), likely(logits_BV, sampling), strict=True
            ):
                tokens[row].append(token)
                logps[row].append(logp)
                supports[row].append(support)
            going = ~torch.isin(next_B.cpu(), self._eos_ids)
            if not going.any():
                break
            if not going.all():
                cache.batch_select_indices(going.nonzero()[:, 0].to(self._model.device))
            live, mask_BP, positions = live[going.numpy()], mask_BP[going], positions[going, -1:] + 1
            mask_BP = torch.cat([mask_BP, torch.ones_like(mask_BP[:, :1])], -1)
            inputs = next_B.cpu()[going][:, None]
        eos = set(self._eos_ids.tolist())
        return [
            Sampled(token_ids=ids, logp=logp, support_ids=support, ended=ids[-1] in eos)
            for ids, logp, support in zip(tokens, logps, supports, strict=True)
        ]

    def _uniforms(self, sample_id: str, count: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(derive_seed(self._seed, sample_id))).random(count)


def draw(logits_BV: Tensor, uniform_B: np.ndarray, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probs [B] under the distribution sampled from (temperature and nucleus applied)."""
    if sampling.temperature == 0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, torch.zeros(len(tokens_B))
    logp_BV = (logits_BV / sampling.temperature).log_softmax(-1)
    if sampling.top_p < 1:
        logp_BV = nucleus(logp_BV, sampling.top_p)
    cumulative_BV = logp_BV.exp().double().cumsum(-1)
    marks_B = torch.from_numpy(uniform_B).to(logits_BV.device) * cumulative_BV[:, -1]
    tokens_B = torch.searchsorted(cumulative_BV, marks_B[:, None], right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)
    return tokens_B, logp_BV.gather(-1, tokens_B[:, None])[:, 0]


def nucleus(logp_BV: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens with mass >= top_p, renormalised; the rest -inf."""
    ordered_BV, order_BV = logp_BV.sort(-1, descending=True)
    before_BV = ordered_BV.exp().cumsum(-1) - ordered_BV.exp()
    kept_BV = ordered_BV.masked_fill(before_BV >= top_p, -torch.inf)
    return torch.empty_like(logp_BV).scatter_(-1, order_BV, kept_BV).log_softmax(-1)


def likely(logits_BV: Tensor, sampling: Sampling) -> list[list[int]]:
    """For each row the ids with probability above the support threshold (temperature 1), the likeliest first."""
    if sampling.support_max == 0:
        return [[] for _ in logits_BV]
    top = logits_BV.topk(min(sampling.support_max, logits_BV.shape[-1]), dim=-1)
    p_BK = (top.values - logits_BV.logsumexp(-1, keepdim=True)).exp()
    counts = (p_BK > sampling.support_threshold).sum(-1).tolist()
    return [ids[:count] for ids, count in zip(top.indices.tolist(), counts, strict=True)]


def _left_padded(prompts_ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts_ids))
    ids_BP = torch.zeros(len(prompts_ids), width, dtype=torch.long)
    mask_BP = torch.zeros_like(ids_BP)
    for row, mask, ids in zip(ids_BP, mask_BP, prompts_ids, strict=True):
        row[width - len(ids) :] = torch.tensor(ids)
        mask[width - len(ids) :] = 1
    return ids_BP, mask_BP


class HFScorer:
    """Scores sequences with the teacher in a model directory."""

    def __init__(
        self, path: Path, *, precision: Precision, vocab: int, support: SupportParams, batch_size: int
    ) -> None:
        self._dtype = lm.resolve_dtype(precision)
        self._model = lm.load_model(path)
        lm.check_vocabulary(self._model, vocab, where=path)
        self._limit = lm.context_length(path)
        self._head = lm.head_logits(self._model, vocab)
        self._support, self._batch_size = support, batch_size

    @torch.inference_mode()
    def score(self, sequences: Sequence[ToScore], on_tokens: Callable[[int], object]) -> list[Scores]:
        """One `Scores` a sequence, in order; tells `on_tokens` how many tokens each batch held."""
        scores: list[Scores] = []
        with lm.autocast(self._dtype):  # one context: it keeps the bf16 copies of the weights while it lasts
            for start in range(0, len(sequences), self._batch_size):
                batch = sequences[start : start + self._batch_size]
                scores += self._score_batch(batch)
                on_tokens(sum(len(one.prompt_ids) + len(one.completion_ids) for one in batch))
        return scores

    def _score_batch(self, batch: Sequence[ToScore]) -> list[Scores]:
        prompts, completions = [one.prompt_ids for one in batch], [one.completion_ids for one in batch]
        longest = max(len(one.prompt_ids) + len(one.completion_ids) for one in batch)
        lm.check_context(self._limit, longest, where="scoring")
        hidden_ND = lm.completion_hidden(self._model, prompts, completions)
        spans = torch.split(hidden_ND, [len(ids) for ids in completions])
        return [
            truncate(self._head(hidden_TD), one.completion_ids, one.support_ids, self._support, seed=_draw_seed(one))
            for hidden_TD, one in zip(spans, batch, strict=True)
        ]


def _draw_seed(one: ToScore) -> int:
    return derive_seed("tail draws", one.prompt_ids, one.completion_ids)


def scorer_fingerprint(teacher: str, *, precision: Precision, support: dict[str, object]) -> str:
    """Identity of a score's maker: teacher, engine, dtypes and what is kept of the distribution."""
    dtype = str(lm.resolve_dtype(precision))
    return digest("transformers", _VERSION, teacher, {"body": dtype, "head": "float32"}, support)
