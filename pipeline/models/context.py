"""How many tokens a model reads at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from pipeline.models import lora as adapter
from pipeline.models.architectures import positions
from pipeline.runtime.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a model's positions reach, in tokens."""

    limit: int
    apart: bool  # encoder and decoder have the limit each to itself

    def beside(self, completion: int) -> int:
        """How long a prompt may be where a completion has this many tokens."""
        return self.limit if self.apart else self.limit - completion

    def check(self, prompt: int, completion: int, *, where: str) -> None:
        """A DataError when a prompt and a completion of these lengths do not fit."""
        longest = max(prompt, completion) if self.apart else prompt + completion
        if longest > self.limit:
            both = "prompt, and of completion" if self.apart else "prompt and completion"
            raise DataError(
                where,
                expected=f"at most {self.limit} tokens of {both} (the model's context)",
                got=f"{longest}",
                remedy="lower task.max_prompt_tokens or max_new_tokens",
            )


def context_of(path: Path) -> Context:
    """The context of a model directory; without limit where positions are relative (T5)."""
    return context(AutoConfig.from_pretrained(adapter.base_of(path)))


def context(config: Any) -> Context:
    """That of a model's configuration."""
    return Context(limit=positions(config) or 1 << 30, apart=config.is_encoder_decoder)
