"""Score sequences with a transformers model in this process.

* Guarantee: a score is a function of its sequence alone, bit for bit, in a batch of any size. So a warm store, a cold
  store and a resumed run give the same bytes. The scorer pads what a batch reads to whole vectors of the processor, 8
  or 16 tokens; then the same code multiplies and adds up each row, whatever is beside it.
* Limit: the guarantee holds for decoders with full attention (and always for batches of one, which is how a model is
  scored whose states `pipeline.models.reuse` does not share). It was tested on CPUs
  with AVX2 and, for one number of threads, with AVX-512. Elsewhere scores agree up to rounding.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.hashing import derive_seed, digest
from pipeline.core.prompt_sharing import distinct_prompts
from pipeline.core.types import Precision, Rollout, Scores, TokenSequence
from pipeline.models import language_model as lm
from pipeline.models.context import context_of
from pipeline.models.finite import NoDistributionError, first_unpredicted, not_finite
from pipeline.scoring.scorer import TruncationParams
from pipeline.scoring.truncate import truncate

_VERSION = 5  # increase it when the numbers of a score change
# Lengths are padded to a multiple of the floats in a vector register: a row then has the same bits in every batch.
_MULTIPLE = 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8


class HFScorer:
    """The scorer for the teacher in a model directory."""

    def __init__(
        self, path: Path, *, precision: Precision, vocab: int, truncation: TruncationParams, batch_size: int
    ) -> None:
        """Load the teacher.

        Args:
            path: The model directory.
            precision: Number format of the body.
            vocab: The size of the tokenizer's vocabulary; further columns of the LM head are ignored.
            truncation: What is stored of a distribution.
            batch_size: Sequences per forward pass.

        Raises:
            ModelError: The model is damaged, or its vocabulary is smaller than `vocab`.
        """
        self._dtype = lm.resolve_dtype(precision)
        self._model = lm.load_model(path)
        lm.check_vocabulary(self._model, vocab, where=path)
        self._context = context_of(path)
        self._head, self._vocab = lm.head_of(self._model, vocab), vocab
        self._truncation, self._batch_size = truncation, batch_size
        # Rows of an encoder-decoder depend on the batch in their last bits, whatever the padding.
        self._multiple = 1 if self._context.separate else _MULTIPLE
        self._prompts: list[list[int]] = []
        self._prefix: lm.PromptCache | None = None  # of those prompts

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenSequence], on_tokens: Callable[[int], object]) -> list[Scores]:
        """Return one `Scores` per sequence, in order; prompts that consecutive batches share are read once.

        Args:
            sequences: The sequences.
            on_tokens: Called for each batch with the number of tokens that the teacher read.

        Raises:
            DataError: A sequence does not fit into the teacher's context.
            ModelError: The teacher's logits contain NaN or infinity.
        """
        scores: list[Scores] = []
        with lm.autocast(self._dtype):  # one context for all batches, because it caches the bf16 copies of the weights
            for start in range(0, len(sequences), self._batch_size):
                batch = sequences[start : start + self._batch_size]
                for sequence in batch:
                    self._context.check(len(sequence.prompt_ids), len(sequence.completion_ids), where="scoring")
                prompts, rows = distinct_prompts([sequence.prompt_ids for sequence in batch])
                if self._prefix is None or self._prompts != prompts:
                    self._prompts, self._prefix = prompts, lm.prefill(self._model, prompts, multiple=self._multiple)
                    on_tokens(sum(map(len, prompts)))
                scores += self._truncated(self._prefix, rows, batch)
                on_tokens(sum(len(sequence.completion_ids) for sequence in batch))
        return scores

    def _truncated(self, prefix: lm.PromptCache, rows: list[int], batch: Sequence[TokenSequence]) -> list[Scores]:
        completions = [sequence.completion_ids for sequence in batch]
        hidden_ND = lm.forward_completions(self._model, prefix, rows, completions, multiple=self._multiple)
        spans = torch.split(hidden_ND, [len(ids) for ids in completions])
        return [self._scores(hidden_TD, sequence) for hidden_TD, sequence in zip(spans, batch, strict=True)]

    def _scores(self, hidden_TD: Tensor, sequence: TokenSequence) -> Scores:
        if sequence.is_masked:  # the LM head need not read what others wrote
            hidden_TD = hidden_TD[torch.tensor(sequence.completion_mask)]
        try:
            return truncate(self._head(hidden_TD), sequence, self._truncation, seed=tail_sample_seed(sequence))
        except NoDistributionError as error:
            row = self._first_unpredicted(sequence, error.row)
            at = f"scored token {row} (id {sequence.scored_ids[row]}) of {_name(sequence)}"
            raise not_finite(self._model, "scoring", at, self._dtype) from None

    def _first_unpredicted(self, sequence: TokenSequence, first: int) -> int:
        """Return the first scored token without a distribution; no row before `first` lacks one."""
        prompt, completion, mask = sequence.prompt_ids, sequence.completion_ids, sequence.completion_mask
        scored = [position for position in range(len(completion)) if not mask or mask[position]]
        return first_unpredicted(self._model, prompt, completion, scored, first=first, vocab=self._vocab)


def _name(sequence: TokenSequence) -> str:
    """Return which sequence it is, for a message."""
    if isinstance(sequence, Rollout):
        return f"rollout {sequence.rollout_id} (prompt {sequence.prompt_id})"
    return f"the completion {sequence.completion_ids[:8]} of the prompt {sequence.prompt_ids[:8]}"


def tail_sample_seed(sequence: TokenSequence) -> int:
    """Return the seed of a sequence's tail samples, which depends on its content alone."""
    return derive_seed("tail draws", sequence.prompt_ids, sequence.completion_ids)


def scorer_fingerprint(teacher: str, *, precision: Precision, truncation: TruncationParams) -> str:
    """Return the identity of a scorer: teacher, engine, dtypes and truncation."""
    dtype = str(lm.resolve_dtype(precision))
    return digest("transformers", _VERSION, teacher, {"body": dtype, "head": "float32"}, truncation.identity())
