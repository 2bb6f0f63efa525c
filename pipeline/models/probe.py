"""Try at load what a model's states can be reused for, and refuse a model that nothing here computes rightly.

Each model reads a few tokens in every way that the pipeline uses, and each sequence in one plain pass without cache and
padding. `reuse` then records which ways agree with the plain pass, and a model whose own logits `head_of` does not
reproduce is refused. So no list of architectures is needed.

* The sequences: two completions of one prompt, a longer prompt beside it, rows that end at different steps, and tokens
  one by one; up to 15 tokens each, so that smaller windows and chunks are crossed.
* Cost: ten short passes.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from pipeline.core.prompt_sharing import distinct_prompts
from pipeline.models import completions, forward
from pipeline.models.architectures import positions, text_config
from pipeline.models.decoding import Decoding
from pipeline.models.finite import not_finite
from pipeline.models.head import head_of
from pipeline.models.reuse import EVERYTHING, Reuse, longest_reusable, record, reuse_of, say_once
from pipeline.runtime.errors import ModelError

# The allowed difference between two ways to the logits, relative to the largest logit; 0.03 in other number formats.
_LOGIT_TOLERANCE = {torch.float32: 1e-3}
_LENGTHS = ((5, 3), (5, 2), (12, 3))  # tokens of each prompt and its completion; the first two prompts are the same
_LONGEST = 16  # no sequence has more tokens


Sequences = list[tuple[list[int], list[int]]]  # prompts with their completions


@torch.no_grad()
def probe(model: Any, path: Path, *, to_train: bool) -> None:
    """Record what the states of a model can be reused for, and say on stderr what has to be read alone.

    Raises:
        ModelError: When the model cannot read tokens, is not causal, or has a head that `head_of` does not reproduce.
    """
    longest = longest_reusable(model.config)
    record(model, Reuse(shares=False, trains=False, decodes=False, longest=longest))
    sequences = probe_sequences(model)
    expected = _plain_logits(model, sequences, path)
    if to_train and model.device.type == "cpu":
        _use_eager_attention(model, sequences[-1], expected[-1])
    reuse = _tried(model, sequences, expected, longest, to_train=to_train)
    record(model, reuse)
    if not reuse.shares:
        _check_head(model, sequences[0], expected[0], path)
    if not reuse.decodes and longest is None:
        _check_causality(model, sequences[0], expected[0], path)
    if to_train and not reuse.trains:
        _check_backward(model, sequences[0], path)
    _say(model, to_train=to_train)


def _tried(model: Any, sequences: Sequences, expected: list[Tensor], longest: int | None, *, to_train: bool) -> Reuse:
    """Return which ways give the expected logits; a limit below the lengths that are tried leaves none."""
    if longest is not None and longest < _LONGEST:
        return reuse_of(model)
    record(model, EVERYTHING)
    following = [logits_TV[:-1] for logits_TV in expected]
    shares = _agrees(model, lambda: _shared(model, sequences), following)
    trains = shares and to_train and not _has_recurrence(model, sequences[0][0])
    return Reuse(
        shares=shares,
        trains=trains and _agrees(model, lambda: _together(model, sequences), following),
        decodes=_agrees(model, lambda: _decoded(model, sequences), expected),
        longest=longest,
    )


def probe_sequences(model: Any) -> Sequences:
    """Return prompts and completions that fit into the model's positions, without special tokens where others exist."""
    rows = model.get_output_embeddings().weight.shape[0]
    configs = (model.config, text_config(model.config))
    fields = {name: value for config in configs for name, value in vars(config).items() if "_token" in name}
    usable = [token for token in range(rows) if token not in fields.values()][:1000] or [0]
    limit = min(positions(model.config) or _LONGEST, _LONGEST)
    sequences: Sequences = []
    for lengths in _LENGTHS:
        prompt, completion = (max(1, length * limit // _LONGEST) for length in lengths)
        tokens = [usable[-1 - (7 * k * k + 3 * k + len(sequences) // 2) % len(usable)] for k in range(prompt)]
        tokens += [usable[-1 - (5 * k * k + k + len(sequences)) % len(usable)] for k in range(completion)]
        sequences.append((tokens[:prompt], tokens[prompt:]))
    return sequences


def _plain_logits(model: Any, sequences: Sequences, path: Path) -> list[Tensor]:
    try:
        logits = [forward.plain_logits(model, *sequence).float() for sequence in sequences]
    except Exception as error:  # transformers raises exceptions of any type
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        remedy = "use another model, or install what it asks for"
        raise ModelError(path, expected="a model that reads token ids", got=got, remedy=remedy) from error
    if not all(logits_TV.isfinite().all() for logits_TV in logits):
        raise not_finite(model, str(path), "tokens that were tried", model.dtype)
    return logits


def _check_head(model: Any, sequence: tuple[list[int], list[int]], expected_TV: Tensor, path: Path) -> None:
    head = head_of(model, model.get_output_embeddings().weight.shape[0])
    way = functools.partial(forward.plain_states, model, *sequence)
    if not _agrees(model, lambda: [head(way())], [expected_TV[:-1]]):
        expected = "logits that are a linear map of the hidden state, soft-capped or not"
        remedy = "use another architecture, or add this one to pipeline/models/architectures.py"
        raise ModelError(path, expected=expected, got=f"others in this {model.config.model_type}", remedy=remedy)


def _use_eager_attention(model: Any, sequence: tuple[list[int], list[int]], expected_TV: Tensor) -> None:
    """Switch to eager attention, unless it computes something else, as Falcon's with ALiBi does."""
    before = model.config._attn_implementation
    if before == "eager" or not model._can_set_attn_implementation():
        return
    model.set_attn_implementation("eager")
    if not _agrees(model, lambda: [forward.plain_logits(model, *sequence)], [expected_TV]):
        model.set_attn_implementation(before)


def _check_causality(model: Any, sequence: tuple[list[int], list[int]], expected_TV: Tensor, path: Path) -> None:
    """Check that a token's logits do not depend on the tokens after it, as in an encoder such as BERT."""
    prompt, completion = sequence
    if not _agrees(model, lambda: [forward.plain_logits(model, prompt, completion[:1])], [expected_TV[:2]]):
        got = f"a {model.config.model_type} that also reads the tokens after it"
        expected, remedy = (
            "a model that writes from left to right",
            "use a decoder, or set is_decoder in its config.json",
        )
        raise ModelError(path, expected=expected, got=got, remedy=remedy)


def _check_backward(model: Any, sequence: tuple[list[int], list[int]], path: Path) -> None:
    """Check that gradients pass through a plain pass: some recurrences have a backward pass on a GPU only."""
    model.train()
    try:
        with torch.enable_grad():
            forward.plain_states(model, *sequence).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # transformers raises exceptions of any type
        expected, remedy = "a model that trains on this device", "train it on a GPU, or use another model"
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise ModelError(path, expected=expected, got=got, remedy=remedy) from error
    model.zero_grad(set_to_none=True)
    model.eval()


def _agrees(model: Any, way: Callable[[], list[Tensor]], expected: list[Tensor]) -> bool:
    """Return whether a way to the logits [T, V] of each sequence gives the expected ones.

    In float32 the largest difference counts. In other formats single tokens of a mixture of experts go elsewhere by
    rounding, so the median over the tokens of the worst sequence counts.
    """
    try:
        actual = way()
    except Exception:  # a class that cannot do this raises exceptions of any type
        return False
    for actual_TV, expected_TV in zip(actual, expected, strict=True):
        scale = expected_TV.abs().amax().clamp(min=1e-9)
        difference_T = ((actual_TV.float() - expected_TV).abs().amax(-1) / scale).sort().values
        counts = -1 if model.dtype == torch.float32 else len(difference_T) // 2
        if not difference_T[counts] <= _LOGIT_TOLERANCE.get(model.dtype, 0.03):
            return False
    return True


def _shared(model: Any, sequences: Sequences) -> list[Tensor]:
    """Return the logits from completions that go on from prompts read once, for the second time."""
    distinct, rows_B = distinct_prompts([prompt for prompt, _ in sequences])
    prefix, texts = completions.prefill(model, distinct), [text for _, text in sequences]
    for _ in range(2):
        states_ND = completions.forward_completions(model, prefix, rows_B, texts)
    return _split_logits(model, states_ND, texts)


def _together(model: Any, sequences: Sequences) -> list[Tensor]:
    """Return the logits from prompts and completions that are padded side by side and read in one pass."""
    distinct, rows_B = distinct_prompts([prompt for prompt, _ in sequences])
    texts = [text for _, text in sequences]
    return _split_logits(model, completions.forward_together(model, distinct, rows_B, texts), texts)


def _split_logits(model: Any, states_ND: Tensor, texts: list[list[int]]) -> list[Tensor]:
    logits_NV = head_of(model, model.get_output_embeddings().weight.shape[0])(states_ND)
    return list(torch.split(logits_NV, [len(text) for text in texts]))


def _decoded(model: Any, sequences: Sequences) -> list[Tensor]:
    """Return the logits [T + 1, V] of completions that are written token by token; shorter rows end earlier."""
    distinct, rows_B = distinct_prompts([prompt for prompt, _ in sequences])
    decoding, live = Decoding(model, distinct, rows_B), list(range(len(sequences)))
    logits: list[list[Tensor]] = [[] for _ in sequences]
    for step in range(max(len(text) for _, text in sequences) + 1):
        for row, logits_V in zip(live, decoding.logits_BV, strict=True):
            logits[row].append(logits_V)
        unfinished = [step < len(sequences[row][1]) for row in live]
        live = [row for row, is_unfinished in zip(live, unfinished, strict=True) if is_unfinished]
        if live:
            decoding.select(torch.tensor(unfinished))
            decoding.step(torch.tensor([sequences[row][1][step] for row in live]))
    return [torch.stack(rows) for rows in logits]


def _has_recurrence(model: Any, prompt: list[int]) -> bool:
    """Return whether a cache holds states that are overwritten in place, through which no gradient passes."""
    state = completions.prefill(model, [prompt]).state
    layers = getattr(state and state.cache, "layers", [])
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _say(model: Any, *, to_train: bool) -> None:
    """Say on stderr, once for each kind of model, what is read alone."""
    reuse, kind = reuse_of(model), model.config.model_type
    slow = {"scoring and evaluation": not reuse.shares, "training": to_train and not reuse.trains}
    slow |= {"sampling": not reuse.decodes and not to_train}
    if uses := [use for use, is_slow in slow.items() if is_slow]:
        why = "the state of a prompt cannot be reused"
        say_once(f"{kind}: each sequence is read alone in {' and '.join(uses)}, which is right but slow: {why}")
