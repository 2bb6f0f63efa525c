"""Read prompts with completions, or write completions token by token, with any model.

A model reads each distinct prompt once (`prefill`), and all its completions go on from the cached keys and values
(`forward_completions`). With prompts longer than completions this saves most of the work. Masks come from lengths and
never from token ids, because many tokenizers use one id for pad and eos. A sequence that may not share a batch or a
cache (`reuse`) is read alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import Cache

from pipeline.core.prompt_sharing import distinct_prompts
from pipeline.models import forward, kv_cache
from pipeline.models.forward import DecoderInputs, EncoderOutput, Model
from pipeline.models.reuse import lengths_forgotten, reuse_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptState:
    """What a model computed from G prompts."""

    last_GD: Tensor  # the hidden state that predicts each prompt's first completion token
    mask_GS: Tensor  # 1 at the tokens that the decoder has read
    cache: Cache  # keys and values
    encoder: EncoderOutput | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCache:
    """G prompts, and the state of a model after it has read them."""

    prompts: Sequence[list[int]]
    state: PromptState | None  # None where each completion reads its prompt again


def completion_hidden(model: Model, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> Tensor:
    """Return the hidden states [N, D] that predict the completion tokens, sequence after sequence.

    Args:
        model: The model.
        prompts: Token ids of the prompt of each completion.
        completions: Token ids of each completion, at least one.
    """
    distinct, rows_B = distinct_prompts(prompts)
    if model.training and model.is_activation_checkpointing:
        return _in_order(model, distinct, rows_B, completions, partial(forward_together, model, distinct))
    return forward_completions(model, prefill(model, distinct), rows_B, completions)


def prefill(model: Model, prompts: Sequence[list[int]], *, multiple: int = 1) -> PromptCache:
    """Read G prompts, padded to a multiple of `multiple` tokens."""
    if not _shares(model):
        return PromptCache(prompts=prompts, state=None)
    # What is read of a prompt over the limit is not used, because its completions are read alone.
    start = forward.decoder_inputs(model, [ids[: reuse_of(model).longest] for ids in prompts], multiple=multiple)
    states_GSD, cache = forward.hidden_states(model, start)
    state = PromptState(last_GD=states_GSD[:, -1], mask_GS=start.mask_BS, cache=cache, encoder=start.encoder)
    return PromptCache(prompts=prompts, state=state)


def forward_completions(
    model: Model, prefix: PromptCache, rows_B: Sequence[int], completions: Sequence[list[int]], *, multiple: int = 1
) -> Tensor:
    """Return the hidden states [N, D] of B completions, sequence after sequence.

    Args:
        model: The model.
        prefix: The prompts, already read; it stays as it is.
        rows_B: The prompt of each completion, as a row of `prefix`.
        completions: Token ids of each completion, at least one.
        multiple: The completions are padded to a multiple of this number of tokens.
    """
    go_on = partial(_go_on, model, prefix, multiple=multiple)
    return _in_order(model, prefix.prompts, rows_B, completions, go_on)


def _shares(model: Model) -> bool:
    reuse = reuse_of(model)
    return reuse.trains if model.training else reuse.shares


def _in_order(
    model: Model,
    prompts: Sequence[list[int]],
    rows_B: Sequence[int],
    completions: Sequence[list[int]],
    together: Callable[[Sequence[int], Sequence[list[int]]], Tensor],
) -> Tensor:
    """Return the states [N, D] of sequences of which some are read together and the others alone."""
    fits, shares = reuse_of(model).fits, _shares(model)
    pairs = list(zip(rows_B, completions, strict=True))
    shared_B = [shares and fits(len(prompts[row]) + len(completion)) for row, completion in pairs]
    if all(shared_B):
        return together(rows_B, completions)
    shared = [pair for pair, is_shared in zip(pairs, shared_B, strict=True) if is_shared]
    parts: list[Tensor] = []
    if shared:
        states_ND = together([row for row, _ in shared], [completion for _, completion in shared])
        parts = list(torch.split(states_ND, [len(completion) for _, completion in shared]))
    in_order = iter(parts)
    return torch.cat(
        [
            next(in_order) if is_shared else _alone(model, prompts[row], completion)
            for (row, completion), is_shared in zip(pairs, shared_B, strict=True)
        ]
    )


def _alone(model: Model, prompt: list[int], completion: list[int]) -> Tensor:
    with lengths_forgotten(model):
        return forward.plain_states(model, prompt, completion)


def forward_together(
    model: Model, prompts: Sequence[list[int]], rows_B: Sequence[int], completions: Sequence[list[int]]
) -> Tensor:
    """Return the same states from one pass over each prompt with its completion: recomputed layers keep no cache."""
    rows = torch.tensor(rows_B, device=model.device)
    start = forward.decoder_inputs(model, [ids[: reuse_of(model).longest] for ids in prompts])
    ids_BT, mask_BT = _all_but_last_token(model, completions, multiple=1)
    inputs = DecoderInputs(
        ids_BT=torch.cat([start.ids_BT[rows], ids_BT], -1),
        mask_BS=torch.cat([start.mask_BS[rows], mask_BT], -1),
        cache=None,
        encoder=start.encoder and start.encoder.select(rows),
    )
    states_BSD, _ = forward.hidden_states(model, inputs, use_cache=False)
    first = start.ids_BT.shape[1] - 1
    ends = [first + len(completion) for completion in completions]
    return torch.cat([states_SD[first:end] for states_SD, end in zip(states_BSD, ends, strict=True)])


def _all_but_last_token(model: Model, completions: Sequence[list[int]], *, multiple: int) -> tuple[Tensor, Tensor]:
    """Return the tokens [B, T] that the model reads, and their mask: the successor of a last token is never scored."""
    longest = (limit := forward.max_padded_length(model)) and limit - 1  # the start token has one of the positions
    shortened = [completion[:-1] for completion in completions]
    ids_BT, mask_BT = forward.padded(shortened, left=False, multiple=multiple, longest=longest)
    return ids_BT.to(model.device), mask_BT.to(model.device)


def _go_on(
    model: Model,
    prefix: PromptCache,
    rows_B: Sequence[int],
    completions: Sequence[list[int]],
    *,
    multiple: int,
) -> Tensor:
    """Return the states [N, D] of completions that go on from the cache of their prompts."""
    rows, state = torch.tensor(rows_B, device=model.device), prefix.state
    assert state is not None
    first_BD = state.last_GD[rows]
    lengths = [len(completion) for completion in completions]
    if max(lengths) == 1:
        return first_BD
    ids_BT, mask_BT = _all_but_last_token(model, completions, multiple=multiple)
    inputs = DecoderInputs(
        ids_BT=ids_BT,
        mask_BS=torch.cat([state.mask_GS[rows], mask_BT], -1),
        cache=kv_cache.select_rows(state.cache, rows),
        encoder=state.encoder and state.encoder.select(rows),
    )
    rest_BTD, _ = forward.hidden_states(model, inputs)
    hidden_BTD = torch.cat([first_BD[:, None], rest_BTD], 1)
    return torch.cat([hidden_TD[:length] for hidden_TD, length in zip(hidden_BTD, lengths, strict=True)])
