"""Map hidden states to logits with the LM head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.models.architectures import softcap
from pipeline.models.tokenizer import check_head_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An LM head: the linear map from hidden states to logits, and the soft cap of the logits."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None  # logits become softcap * tanh(logits / softcap)

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Return the logits [N, V] of hidden states, in float32 or better, also under autocast."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            dtype = torch.promote_types(self.weight_VD.dtype, torch.float32)
            bias_V = None if self.bias_V is None else self.bias_V.to(dtype)
            logits_NV = torch.nn.functional.linear(hidden_ND.to(dtype), self.weight_VD.to(dtype), bias_V)
            return logits_NV if self.softcap is None else torch.tanh(logits_NV / self.softcap) * self.softcap


def head_of(model: Any, vocab: int) -> Head:
    """Return the LM head of a model, cut to the first `vocab` token ids."""
    head = model.get_output_embeddings()
    # BART and its relatives add final_logits_bias [1, V].
    biases = [
        bias.flatten()
        for bias in (getattr(head, "bias", None), getattr(model, "final_logits_bias", None))
        if bias is not None
    ]
    weight_VD, bias_V = head.weight, sum(biases) if biases else None
    return Head(
        weight_VD=weight_VD if len(weight_VD) == vocab else weight_VD[:vocab],
        bias_V=bias_V if bias_V is None or len(bias_V) == vocab else bias_V[:vocab],
        softcap=softcap(model.config),
    )


def check_vocabulary(model: Any, vocab: int, *, where: Path) -> None:
    """Check that a model's head has a row for every token id of a vocabulary.

    Raises:
        ModelError: When it has fewer rows.
    """
    check_head_rows(model.get_output_embeddings().weight.shape[0], vocab, where=where)
