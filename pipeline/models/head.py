"""The LM head: hidden states to logits."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Hidden states [N, D] to logits [N, V], in float32 or better."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None  # logits are softcap * tanh(logits / softcap)

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V]."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            dtype = torch.promote_types(self.weight_VD.dtype, torch.float32)
            bias_V = None if self.bias_V is None else self.bias_V.to(dtype)
            logits_NV = torch.nn.functional.linear(hidden_ND.to(dtype), self.weight_VD.to(dtype), bias_V)
            return logits_NV if self.softcap is None else torch.tanh(logits_NV / self.softcap) * self.softcap
