"""Map hidden states to logits with the LM head."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
