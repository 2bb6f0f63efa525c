"""Score sequences with a transformers model in this process.

* Guarantee: a score is a function of its sequence alone, bit for bit, in a batch of any size. So a warm store, a cold
  store and a resumed run give the same bytes. The scorer pads what a batch reads to whole vectors of the processor, 8
  or 16 tokens; then the same code multiplies and adds up each row, whatever is beside it.
* Limit: the guarantee holds for decoders with full attention (and always for batches of one). It was tested on CPUs
  with AVX2 and, for one number of threads, with AVX-512. Elsewhere scores agree up to rounding.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pipeline.core.hashing import derive_seed, digest
from pipeline.core.prompt_sharing import distinct_prompts
from pipeline.core.types import Precision, Scores, TokenSequence
from pipeline.models import language_model as lm
from pipeline.models.context import context_of
from pipeline.scoring.scorer import TruncationParams
from pipeline.scoring.truncate import truncate

_VERSION = 5  # raise it when the numbers of a score change
# Tokens, as many as floats in a vector: a row then comes out the same whatever rows and padding there are beside it.
_MULTIPLE = 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8


class HFScorer:
    """Scores sequences with the teacher in a model directory."""

    def __init__(
        self, path: Path, *, precision: Precision, vocab: int, truncation: TruncationParams, batch_size: int
    ) -> None:
        self._dtype = lm.resolve_dtype(precision)
        self._model = lm.load_model(path)
        lm.check_vocabulary(self._model, vocab, where=path)
        self._context = context_of(path)
        self._head = lm.head_of(self._model, vocab)
        self._truncation, self._batch_size = truncation, batch_size
        # Encoder-decoders round differently in other company in any case.
        self._multiple = 1 if self._context.separate else _MULTIPLE
        self._prompts: list[list[int]] = []
        self._prefix: lm.PromptCache | None = None  # of those prompts

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenSequence], on_tokens: Callable[[int], object]) -> list[Scores]:
        """One `Scores` a sequence, in order; tells `on_tokens` how many tokens the teacher read for each batch.

        Prompts that batches in a row share are read once.
        """
        scores: list[Scores] = []
        with lm.autocast(self._dtype):  # one context: it keeps the bf16 copies of the weights while it lasts
            for start in range(0, len(sequences), self._batch_size):
                batch = sequences[start : start + self._batch_size]
                for one in batch:
                    self._context.check(len(one.prompt_ids), len(one.completion_ids), where="scoring")
                prompts, rows = distinct_prompts([one.prompt_ids for one in batch])
                if self._prefix is None or self._prompts != prompts:
                    self._prompts, self._prefix = prompts, lm.prefill(self._model, prompts, multiple=self._multiple)
                    on_tokens(sum(map(len, prompts)))
                scores += self._truncated(self._prefix, rows, batch)
                on_tokens(sum(len(one.completion_ids) for one in batch))
        return scores

    def _truncated(self, prefix: lm.PromptCache, rows: list[int], batch: Sequence[TokenSequence]) -> list[Scores]:
        completions = [one.completion_ids for one in batch]
        hidden_ND = lm.forward_completions(self._model, prefix, rows, completions, multiple=self._multiple)
        spans = torch.split(hidden_ND, [len(ids) for ids in completions])
        return [
            truncate(self._head(hidden_TD), one, self._truncation, seed=draw_seed(one))
            for hidden_TD, one in zip(spans, batch, strict=True)
        ]


def draw_seed(one: TokenSequence) -> int:
    """Seeds the tail draws of a sequence by its content."""
    return derive_seed("tail draws", one.prompt_ids, one.completion_ids)


def scorer_fingerprint(teacher: str, *, precision: Precision, truncation: TruncationParams) -> str:
    """Identity of a score's maker: teacher, engine, dtypes and what is kept of the distribution."""
    dtype = str(lm.resolve_dtype(precision))
    return digest("transformers", _VERSION, teacher, {"body": dtype, "head": "float32"}, truncation.identity())
