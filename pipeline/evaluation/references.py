"""Measure how likely a model finds the references of the held-out prompts: quality without sampling.

* The negative log-likelihood of texts that somebody else wrote rises when a model is sharpened, whatever its greedy
  completions look like.
* A student reads the references while it is compared with its teacher. The teacher's own likelihood costs one pass over
  the prompts with their references, and loading the model once more.
* Shapes: N reference positions, D width, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.core.types import Prompt
from pipeline.evaluation.agreement import negative_logp
from pipeline.evaluation.completions import EvaluationParams, batches_by_length
from pipeline.evaluation.measurements import Measurement, of_ratio
from pipeline.models import language_model as lm
from pipeline.rollout.sampler import Sampled
from pipeline.runtime.progress import bar


def references_of(prompts: Sequence[Prompt], p: EvaluationParams) -> list[Sampled]:
    """Return the first reference of each prompt, up to `p.max_new_tokens`, as a completion."""
    return [Sampled(token_ids=prompt.reference_ids[: p.max_new_tokens], logp=[], finished=True) for prompt in prompts]


@torch.inference_mode()
def teacher_reference_nll(
    path: Path, prompts: Sequence[Prompt], p: EvaluationParams, *, vocab_size: int, title: str
) -> Measurement:
    """Return the mean negative log-likelihood of the first references, in nats per token.

    Args:
        path: A model directory.
        prompts: The prompts with their references, which are read up to `p.max_new_tokens`.
        p: Batch size and precision.
        vocab_size: Only the first so many token ids have a probability.
        title: The title of the progress bar.

    Raises:
        ModelError: When the model cannot be loaded.
    """
    model = lm.load_model(path)
    head = lm.head_of(model, vocab_size)
    references = [reference.token_ids for reference in references_of(prompts, p)]
    nats: dict[int, float] = {}
    with bar(title, sum(map(len, references))) as meter, lm.autocast(lm.resolve_dtype(p.precision)):
        for chunk in batches_by_length(prompts, p.batch_size):
            batch = [references[index] for index in chunk]
            hidden_ND = lm.completion_hidden(model, [prompts[index].prompt_ids for index in chunk], batch)
            nats |= zip(chunk, negative_logp(head, hidden_ND, batch), strict=True)
            meter.update(sum(map(len, batch)))
    return of_ratio(prompts, [nats[index] for index in range(len(prompts))], list(map(len, references)))
