"""Truncate dense teacher logits to what the store keeps: head, tail mass, tail draws, union entries.

The head {p > threshold} with the top-1 and the realised token needs the teacher and the tokens alone. Draws from the
tail follow its mass, because their variance goes with mass squared over their number; they are keyed by the
sequence's content, so neither batch nor order nor restart changes them.
Cost at V = 49,152 on one busy CPU core: .39-.46 ms a position, of which a bare log-softmax and top-128 are .21-.27 and
the head's matrix product with 576 columns 1.2-1.5 besides.
Not taken: top-k of every row (the cap seldom binds), a running sum over all of V for every draw (eight bytes of each
probability; blocks of 256 are summed first).
"""

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.engines.base import SupportParams
from pipeline.records import Scores

_MAX_DRAWS = 255  # draw_n is one byte
_BLOCK = 256  # tokens that one step of the inverse CDF takes together

Entries: TypeAlias = tuple[Tensor, Tensor]  # positions, ascending, and token ids


def truncate(
    logits_TV: Tensor, token_ids: list[int], support_ids: list[list[int]], p: SupportParams, *, seed: int
) -> Scores:
    """Scores of one completion of T tokens from fp32 logits [T, V]."""
    logp_TV = logits_TV.log_softmax(-1)
    p_TV = logp_TV.exp()
    entropy_T = _entropy(p_TV, logp_TV)
    tokens_T = torch.tensor(token_ids, device=logits_TV.device)
    in_head_TV, head = _head(p_TV, tokens_T, p)
    union = _union(logp_TV, in_head_TV, support_ids)
    p_TV[head] = 0.0
    tail_T = p_TV.sum(-1)
    draws = _draws(p_TV, tail_T, p, seed)
    p_TV[union] = 0.0
    others = [_tails(logp_TV, head, union, one) for one in p.temperatures[1:]]
    first = (tail_T, p_TV.sum(-1), torch.zeros_like(tail_T))
    tails_TH, union_tails_TH, lse_TH = (torch.stack(one, -1) for one in zip(first, *others, strict=True))

    def flat(group: str, entries: Entries) -> dict[str, np.ndarray]:
        rows, ids = entries
        return {
            f"{group}_ids": ids.cpu().numpy().astype(np.int32),
            f"{group}_logp": logp_TV[entries].float().cpu().numpy(),
            f"{group}_n": torch.bincount(rows, minlength=len(tokens_T)).cpu().numpy().astype(np.int32),
        }

    return Scores(
        **flat("head", head),
        **flat("draw", draws),
        **flat("union", union),
        tail_NH=tails_TH.float().cpu().numpy(),
        union_tail_NH=union_tails_TH.float().cpu().numpy(),
        lse_NH=lse_TH.float().cpu().numpy(),
        token_logp_N=logp_TV.gather(-1, tokens_T[:, None])[:, 0].float().cpu().numpy(),
        entropy_N=entropy_T.float().cpu().numpy(),
    )


def _entropy(p_TV: Tensor, logp_TV: Tensor) -> Tensor:
    """Nats."""
    entropy_T: Tensor = -torch.linalg.vecdot(p_TV, logp_TV)
    if entropy_T.isnan().any():  # 0 * -inf, for tokens that cannot be
        entropy_T = -(p_TV * logp_TV).nan_to_num(0.0).sum(-1)
    return entropy_T


def _head(p_TV: Tensor, tokens_T: Tensor, p: SupportParams) -> tuple[Tensor, Entries]:
    """The tokens above the threshold up to the cap, the likeliest and the realised one: as a mask [T, V] and a list."""
    head_TV = p_TV > p.threshold
    rows, ids = head_TV.nonzero(as_tuple=True)
    count_T = torch.bincount(rows, minlength=len(tokens_T))
    too_many_T, none_T = count_T > p.max_entries, count_T == 0
    if too_many_T.any() or none_T.any():
        for wrong_T, kept in ((too_many_T, p.max_entries), (none_T, 1)):
            likeliest = p_TV[wrong_T].topk(min(kept, p_TV.shape[-1]), dim=-1).indices
            head_TV[wrong_T] = torch.zeros_like(head_TV[wrong_T]).scatter_(-1, likeliest, True)
        rows, ids = head_TV.nonzero(as_tuple=True)
    missing = (~head_TV.gather(-1, tokens_T[:, None]))[:, 0].nonzero()[:, 0]
    rows, order = torch.cat([rows, missing]).sort(stable=True)
    return head_TV.scatter_(-1, tokens_T[:, None], True), (rows, torch.cat([ids, tokens_T[missing]])[order])


def _union(logp_TV: Tensor, in_head_TV: Tensor, support_ids: list[list[int]]) -> Entries:
    """The author's likely tokens outside the head, but for those that cannot be."""
    pairs = [(row, token) for row, ids in enumerate(support_ids) for token in ids]
    rows, ids = torch.tensor(pairs, dtype=torch.long, device=logp_TV.device).reshape(-1, 2).unbind(-1)
    new = ~in_head_TV[rows, ids] & ~torch.isneginf(logp_TV[rows, ids])
    return rows[new], ids[new]


def _tails(logp_TV: Tensor, head: Entries, union: Entries, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mass outside the head [T] and outside head and union [T] at a temperature, and its log-sum-exp [T]."""
    p_TV = logp_TV / temperature
    lse_T = p_TV.logsumexp(-1)
    p_TV.sub_(lse_T[:, None]).exp_()
    p_TV[head] = 0.0
    tail_T = p_TV.sum(-1)
    p_TV[union] = 0.0
    return tail_T, p_TV.sum(-1), lse_T


def _draws(outside_TV: Tensor, tail_T: Tensor, p: SupportParams, seed: int) -> Entries:
    """Draws from the tail by inverse CDF: first a block of tokens, then a token in it."""
    wanted_T = (tail_T * p.draws_per_tail).ceil().clamp(max=_MAX_DRAWS).long()
    wanted_T[tail_T <= p.min_tail] = 0
    most = int(wanted_T.max())
    rows_R, place_R = (torch.arange(most, device=tail_T.device) < wanted_T[:, None]).nonzero(as_tuple=True)
    uniform_TJ = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random((len(tail_T), most)))
    padded_TV = functional.pad(outside_TV, (0, -outside_TV.shape[-1] % _BLOCK))
    blocks = padded_TV.reshape(len(tail_T), -1, _BLOCK)
    ends = blocks.sum(-1).double().cumsum(-1)
    marks_TJ = uniform_TJ.to(tail_T.device) * ends[:, -1:]
    block_TJ = torch.searchsorted(ends, marks_TJ, right=True).clamp(max=ends.shape[-1] - 1)
    begin_TJ = functional.pad(ends, (1, 0)).gather(-1, block_TJ)
    share_TJ = (marks_TJ - begin_TJ) / (ends.gather(-1, block_TJ) - begin_TJ)
    block_R, share_R1 = block_TJ[rows_R, place_R], share_TJ[rows_R, place_R, None]
    within = blocks[rows_R, block_R].double().cumsum(-1)
    token_R = torch.searchsorted(within, share_R1 * within[:, -1:], right=True)[:, 0].clamp(max=_BLOCK - 1)
    return rows_R, block_R * _BLOCK + token_R
