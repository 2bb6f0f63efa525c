"""Write completions token by token with any model.

Rows of a batch share the cache of their prompts where `reuse` says that they may. Otherwise each row has a cache of its
own, or reads its whole sequence again for each token.

* Limit: tokens that `generate` would force or forbid (BART's first token, mBART's language) are neither.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache

from pipeline.models import forward, kv_cache
from pipeline.models.forward import DecoderInputs, EncoderOutput, Model
from pipeline.models.reuse import lengths_forgotten, reuse_of


class Decoding:
    """B completions that a model writes token by token.

    `logits_BV` are the model's own logits of the next token.
    """

    def __init__(self, model: Model, prompts: Sequence[list[int]], rows_B: Sequence[int]) -> None:
        """Read the prompts once; each completion follows the prompt at its row."""
        self._model, self._reuse = model, reuse_of(model)
        self._prompts, self._written = [prompts[row] for row in rows_B], [list[int]() for _ in rows_B]
        self._cache: Cache | None = None  # without one, each row is read alone
        self._encoder: EncoderOutput | None = None
        if not self._reuse.decodes or not self._reuse.fits(max(map(len, prompts))):
            self._read_alone()
            return
        rows = torch.tensor(rows_B, device=model.device)
        start = forward.decoder_inputs(model, prompts)
        logits_GV, cache = forward.next_logits(model, start)
        self.logits_BV, self._mask_BS = logits_GV[rows], start.mask_BS[rows]
        self._encoder = start.encoder and start.encoder.select(rows)
        self._cache = kv_cache.select_rows(cache, rows)
        kv_cache.preallocate(self._cache)

    def select(self, unfinished_B: Tensor) -> None:
        """Keep the rows where the mask is true. Call `step` with their tokens next: `logits_BV` stays as it is."""
        if unfinished_B.all():
            return
        kept = unfinished_B.nonzero()[:, 0]
        self._prompts, self._written = (
            [texts[row] for row in kept.tolist()] for texts in (self._prompts, self._written)
        )
        if self._cache is not None:
            rows = kept.to(self._model.device)
            self._mask_BS, self._encoder = self._mask_BS[rows], self._encoder and self._encoder.select(rows)
            self._cache = kv_cache.select_rows(self._cache, rows)

    def step(self, ids_B: Tensor) -> None:
        """Append one token to each completion and compute the logits of the next."""
        for written, token in zip(self._written, ids_B.tolist(), strict=True):
            written.append(token)
        lengths = [len(prompt) + len(written) for prompt, written in zip(self._prompts, self._written, strict=True)]
        if self._cache is None or not self._reuse.fits(max(lengths)):
            self._cache = None
            self._read_alone()
            return
        self._mask_BS = torch.cat([self._mask_BS, torch.ones_like(self._mask_BS[:, :1])], -1)
        ids_B1 = ids_B[:, None].to(self._model.device)
        inputs = DecoderInputs(ids_BT=ids_B1, mask_BS=self._mask_BS, cache=self._cache, encoder=self._encoder)
        self.logits_BV, self._cache = forward.next_logits(self._model, inputs)

    def _read_alone(self) -> None:
        """Compute the next logits of each row from a plain pass over its whole sequence."""
        rows = []
        for prompt, written in zip(self._prompts, self._written, strict=True):
            with lengths_forgotten(self._model):
                rows.append(forward.plain_logits(self._model, prompt, written)[-1])
        self.logits_BV = torch.stack(rows)
