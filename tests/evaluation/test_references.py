"""The likelihood of references, compared with one pass per sequence in float64."""

from pathlib import Path

import pytest
import torch

from pipeline.evaluation.agreement import ModelPair, compare_and_read
from pipeline.evaluation.references import references_of, teacher_reference_nll
from pipeline.models import language_model as lm
from pipeline.rollout.sampler import Sampled
from tests.factories import evaluation_params, prompt

PROMPTS = [
    prompt("a", [256, 1, 2, 3, 4], reference_ids=[7, 8, 257]),
    prompt("b", [256], reference_ids=[257]),
    prompt("c", [256, 9, 9], reference_ids=[1, 2, 3, 4, 5, 6, 7, 257]),
]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_is_the_dense_mean_over_tokens_up_to_the_limit(
    student_dir: Path, teacher_dir: Path, batch_size: int
) -> None:
    model, nats = lm.load_model(student_dir).double(), []
    for case in PROMPTS:
        reference = case.reference_ids[:6]
        with torch.inference_mode():
            logits_SV = model(input_ids=torch.tensor([case.prompt_ids + reference])).logits[0]
        logp_TV = logits_SV[len(case.prompt_ids) - 1 : -1, :260].log_softmax(-1)
        nats.append(-logp_TV[range(len(reference)), reference].sum().item())
    p = evaluation_params(batch_size=batch_size, max_new_tokens=6)
    alone = teacher_reference_nll(student_dir, PROMPTS, p, vocab_size=260, title="read references")
    models = ModelPair(student=student_dir, teacher=teacher_dir, vocab_size=260)
    assert alone.value == pytest.approx(sum(nats) / (3 + 1 + 6), rel=1e-4)
    assert alone.parts_G2[:, 1].tolist() == [3, 1, 6]
    assert alone.parts_G2[:, 0] == pytest.approx(nats, rel=1e-4)

    # The comparison reads them with the completions, which stay what they are without references.
    completions = [Sampled(token_ids=ids, logp=[], finished=True) for ids in ([5, 6], [8, 9, 257], [257])]
    agreements, read = compare_and_read(models, PROMPTS, completions, references_of(PROMPTS, p), p, title="compare")
    assert read == pytest.approx(nats, rel=1e-4)
    expected, nothing = compare_and_read(models, PROMPTS, completions, [], p, title="compare")
    assert nothing == []
    for agreement, of_completion in zip(agreements, expected, strict=True):
        assert agreement.means() == pytest.approx(of_completion.means(), rel=1e-4)
