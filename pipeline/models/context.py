"""Check how many tokens a model can read: the context limit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from pipeline.models.architectures import positions
from pipeline.models.lora import base_of
from pipeline.runtime.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The context limit of a model."""

    limit: int  # tokens
    separate: bool  # encoder and decoder have the limit each

    def prompt_limit(self, completion: int) -> int:
        """Return the largest number of prompt tokens beside a completion of this many tokens."""
        return self.limit if self.separate else self.limit - completion

    def check(self, prompt: int, completion: int, *, where: str) -> None:
        """Check that a prompt and a completion of these lengths, in tokens, fit.

        Raises:
            DataError: When they do not; it names `where`.
        """
        longest = max(prompt, completion) if self.separate else prompt + completion
        if longest > self.limit:
            both = "prompt, and of completion" if self.separate else "prompt and completion"
            expected = f"at most {self.limit} tokens of {both} (the model's context)"
            remedy = "lower task.max_prompt_tokens or max_new_tokens"
            raise DataError(where, expected=expected, got=longest, remedy=remedy)


def context_of(path: Path) -> Context:
    """Return the context of a model directory, which may hold an adapter.

    Raises:
        ModelError: When the base of an adapter does not exist.
    """
    return context(AutoConfig.from_pretrained(base_of(path)))


def context(config: Any) -> Context:
    """Return the context of a model's configuration; relative positions (T5) count as 2^30 tokens."""
    return Context(limit=positions(config) or 1 << 30, separate=config.is_encoder_decoder)
