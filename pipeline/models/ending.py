"""Look whether a model ends its answers, in a few short passes, before anything is sampled from it.

A base model does not write the end token of a chat template that it never read, nor does a model that lost many layers:
after a whole short answer its chance is below 1e-4, where chat models have .1 and more.
"""

from typing import Any

import torch

from pipeline.models import forward
from pipeline.models.context import context
from pipeline.models.tokenizer import Tokenizer, eos_ids, reference_ids, render
from pipeline.runtime.errors import UserError

RARE = 1e-3  # a mean chance below it means that hardly any completion ends
_EXCHANGES = (
    ("Where is Paris?", "Paris is in France."),
    ("What is 2 + 2?", "2 + 2 is 4."),
    ("Write a short sentence.", "The cat sleeps on a warm stone."),
)


@torch.no_grad()
def end_chance(model: Any, tokenizer: Tokenizer) -> float | None:
    """Return the mean chance of an end token after short answers, between 0 and 1.

    None where the chat template takes no such conversation, or none fits the model's context.
    """
    limits, ends, chances = context(model.config), eos_ids(tokenizer), list[float]()
    for request, answer in _EXCHANGES:
        question = [{"role": "user", "content": request}] if tokenizer.chat_template else f"{request}\n"
        try:
            prompt, completion = render(tokenizer, question)[1], reference_ids(tokenizer, question, answer)
        except UserError:
            continue
        if len(prompt) <= limits.prompt_limit(len(completion)):
            logits_V = forward.plain_logits(model, prompt, completion[:-1])[-1].float()
            chances.append(float(logits_V.softmax(-1)[ends].sum()))
    return sum(chances) / len(chances) if chances else None
