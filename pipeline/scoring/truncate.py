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

from pipeline.core.types import Entries, PositionStats, Scores, TokenSequence
from pipeline.models.categorical import expectation, inverse_cdf
from pipeline.scoring.scorer import TruncationParams

_MAX_DRAWS = 255  # draw_n is one byte

Cells: TypeAlias = tuple[Tensor, Tensor]  # positions, ascending, and token ids


def truncate(logits_TV: Tensor, one: TokenSequence, p: TruncationParams, *, seed: int) -> Scores:
    """Scores of one completion of T tokens from fp32 logits [T, V]."""
    logp_TV = logits_TV.log_softmax(-1)
    p_TV = logp_TV.exp()
    entropy_T = -expectation(p_TV, logp_TV)
    tokens_T = torch.tensor(one.completion_ids, device=logits_TV.device)
    in_head_TV, realised_only_T, head = _head(p_TV, tokens_T, p)
    likely = _named(one.support_ids, logp_TV)
    realised_only_T[likely[0][likely[1] == tokens_T[likely[0]]]] = False
    new = ~in_head_TV[likely]
    union = likely[0][new], likely[1][new]
    p_TV[head] = 0.0
    tail_T = p_TV.sum(-1)
    draws = _draws(p_TV, tail_T, p, seed)
    p_TV[union] = 0.0
    in_head_TV[union] = True
    others = [_tempered(logp_TV, head, union, at) for at in p.temperatures[1:]]
    first = (tail_T, p_TV.sum(-1), torch.zeros_like(tail_T), entropy_T)
    tails_TH, union_tails_TH, lse_TH, entropy_TH = (torch.stack(each, -1) for each in zip(first, *others, strict=True))

    stats = PositionStats(
        tail_NH=tails_TH.float().cpu().numpy(),
        student_tail_NH=union_tails_TH.float().cpu().numpy(),
        lse_NH=lse_TH.float().cpu().numpy(),
        entropy_NH=entropy_TH.float().cpu().numpy(),
        token_logp_N=logp_TV.gather(-1, tokens_T[:, None])[:, 0].float().cpu().numpy(),
        stored_only_because_sampled_N=realised_only_T.cpu().numpy(),
        tail_mean_N=_tail_g(logp_TV, in_head_TV, one).float().cpu().numpy(),
    )
    top, tail_samples, student = (_entries(logp_TV, cells) for cells in (head, draws, union))
    return Scores(top=top, tail_samples=tail_samples, student=student, stats=stats)


def _entries(logp_TV: Tensor, cells: Cells) -> Entries:
    rows, ids = cells
    return Entries(
        ids=ids.cpu().numpy().astype(np.int32),
        logp=logp_TV[cells].float().cpu().numpy(),
        counts=torch.bincount(rows, minlength=len(logp_TV)).cpu().numpy().astype(np.int32),
    )


def _head(p_TV: Tensor, tokens_T: Tensor, p: TruncationParams) -> tuple[Tensor, Tensor, Cells]:
    """The tokens above the threshold up to the cap, the likeliest and the realised one: as a mask [T, V] and a list.

    Between them a mask [T] of where the realised token is there for no other reason.
    """
    head_TV = p_TV > p.threshold
    rows, ids = head_TV.nonzero(as_tuple=True)
    count_T = torch.bincount(rows, minlength=len(tokens_T))
    too_many_T, none_T = count_T > p.max_entries, count_T == 0
    if too_many_T.any() or none_T.any():
        for wrong_T, kept in ((too_many_T, p.max_entries), (none_T, 1)):
            likeliest = p_TV[wrong_T].topk(min(kept, p_TV.shape[-1]), dim=-1).indices
            head_TV[wrong_T] = torch.zeros_like(head_TV[wrong_T]).scatter_(-1, likeliest, True)
        rows, ids = head_TV.nonzero(as_tuple=True)
    missing_T = ~head_TV.gather(-1, tokens_T[:, None])[:, 0]
    missing = missing_T.nonzero()[:, 0]
    rows, order = torch.cat([rows, missing]).sort(stable=True)
    entries = rows, torch.cat([ids, tokens_T[missing]])[order]
    return head_TV.scatter_(-1, tokens_T[:, None], True), missing_T, entries


def _named(ids_of_row: list[list[int]], logp_TV: Tensor) -> Cells:
    """The tokens that the author named at each position, but for those that cannot be."""
    pairs = [(row, token) for row, ids in enumerate(ids_of_row) for token in ids]
    rows, ids = torch.tensor(pairs, dtype=torch.long, device=logp_TV.device).reshape(-1, 2).unbind(-1)
    possible = ~torch.isneginf(logp_TV[rows, ids])
    return rows[possible], ids[possible]


def _tempered(logp_TV: Tensor, head: Cells, union: Cells, temperature: float) -> tuple[Tensor, ...]:
    """At a temperature, [T] each: mass outside the head, outside head and union, log-sum-exp, entropy."""
    q_TV = logp_TV / temperature
    lse_T = q_TV.logsumexp(-1)
    q_TV.sub_(lse_T[:, None])
    p_TV = q_TV.exp()
    entropy_T = -expectation(p_TV, q_TV)
    p_TV[head] = 0.0
    tail_T = p_TV.sum(-1)
    p_TV[union] = 0.0
    return tail_T, p_TV.sum(-1), lse_T, entropy_T


def _tail_g(logp_TV: Tensor, stored_TV: Tensor, one: TokenSequence) -> Tensor:
    """G [T]: mean log-prob of those of the author's draws that are not stored, plus its offset; NaN without any.

    The offset has mean 0 over the draws, and tokens that the author finds likelier so mostly does the teacher: it takes
    away what the draws' choice among likely and unlikely tokens adds in variance.
    """
    rows, ids = _named(one.tail_sample_ids, logp_TV)
    new = ~stored_TV[rows, ids]
    sums_T, counts_T = (torch.zeros(len(logp_TV), dtype=torch.double, device=logp_TV.device) for _ in range(2))
    sums_T.index_add_(0, rows[new], logp_TV[rows[new], ids[new]].double())
    counts_T.index_add_(0, rows[new], torch.ones_like(ids[new], dtype=torch.double))
    offset_T = torch.tensor(one.tail_offset or [0.0] * len(logp_TV), dtype=torch.double, device=logp_TV.device)
    return sums_T / counts_T + offset_T


def _draws(outside_TV: Tensor, tail_T: Tensor, p: TruncationParams, seed: int) -> Cells:
    """As many draws from each tail as its mass deserves."""
    wanted_T = (tail_T * p.samples_per_tail).ceil().clamp(max=_MAX_DRAWS).long()
    wanted_T[tail_T <= p.min_tail] = 0
    most = int(wanted_T.max())
    rows_R, place_R = (torch.arange(most, device=tail_T.device) < wanted_T[:, None]).nonzero(as_tuple=True)
    uniform_TJ = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random((len(tail_T), most)))
    return rows_R, inverse_cdf(outside_TV, rows_R, uniform_TJ.to(tail_T.device)[rows_R, place_R])
