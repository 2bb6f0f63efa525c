"""The moving average of a model's weights."""

import torch

from pipeline.training.ema import average_of, average_state, restore_average


def model_of(value: float) -> torch.nn.Linear:
    made = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(made.weight, value)
    made.bias.requires_grad_(False)
    return made


def test_weights_count_by_powers_of_the_decay_over_their_sum() -> None:
    model, decay = model_of(0.0), 0.9
    average, values = average_of(model, decay), [5.0, 1.0, -2.0, 7.0]
    for step, value in enumerate(values, start=1):
        torch.nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        powers = [decay ** (step - 1 - place) for place in range(step)]
        expected = sum(power * value for power, value in zip(powers, values, strict=False)) / sum(powers)
        assert abs(average.module.weight.item() - expected) < 1e-6


def test_a_restored_average_continues_identically() -> None:
    model, values = model_of(0.0), [5.0, 1.0, -2.0]
    average = average_of(model, 0.5)
    for value in values:
        torch.nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    kept = average_state(model, average)
    assert list(kept["weights"]) == ["weight"]  # the bias is not trained

    again = model_of(average.module.weight.item())  # as a checkpoint has it
    other = average_of(again, 0.5)
    restore_average(again, other, kept)
    assert torch.equal(again.weight, model.weight)
    for each_model, its in ((model, average), (again, other)):
        torch.nn.init.constant_(each_model.weight, 3.0)
        its.update_parameters(each_model)
    assert torch.equal(average.module.weight, other.module.weight)
