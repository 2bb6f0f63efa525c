"""Try many classes of models: what is loaded, cut, saved and shared gives the logits of one plain pass.

    python -m bench.models.classes --json FILE

Each class is a tiny random model (`bench.models.tiny`). The expected logits come from transformers alone, from one pass
per sequence without cache and padding. They are compared with several completions of one prompt, prompts of different
lengths, decoding step by step, and training with and without gradient checkpointing; the gradient is that of the
plain pass too. Prompts have 5 to 20 tokens, more than the windows and chunks of 6 and the rotary limit of 16.
"""

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import click
import torch
from torch import Tensor
from transformers import AutoConfig

from bench.models.tiny import MODELS, VOCAB, tiny_model
from bench.output import Row, show
from pipeline.checkpoints.pruning import keep_layers
from pipeline.models import language_model as lm
from pipeline.models.architectures import auto_class
from pipeline.models.reuse import reuse_of
from pipeline.runtime.errors import UserError

Pairs: TypeAlias = list[tuple[int, int]]  # a prompt and a completion each, by their numbers
Expected: TypeAlias = dict[tuple[int, int], Tensor]  # the logits [T, V] of a pair from a plain pass
KEPT = (0, 3)  # of four layers
REASONS = {"linear map": "head", "left to right": "not-causal", "that trains": "training"}
TOLERANCE = 1e-3  # the largest difference of logits, relative to the largest logit
PROMPTS = [[3 + (5 * k + 3 * n) % 60 for k in range(length)] for n, length in enumerate((5, 12, 20))]
SEVERAL, RAGGED = [(0, 0), (0, 1), (0, 2)], [(0, 0), (1, 1), (2, 2)]  # prompts with completions
COMPLETIONS = [[3 + (7 * k * k + 11 * n) % 60 for k in range(length)] for n, length in enumerate((6, 3, 4))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far one way to the logits is from plain passes."""

    difference: float  # of the logits, relative to the largest
    kl: float  # nats per token, from the plain pass

    @property
    def is_close(self) -> bool:
        """Whether only rounding differs."""
        return self.difference <= TOLERANCE


@click.command(help=__doc__)
@click.option("--only", multiple=True, help="Names of classes; all without this option.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
def main(only: tuple[str, ...], out: Path | None) -> None:
    """Run the benchmark and print its table."""
    rows = [try_class(name) for name in only or MODELS]
    show([list(rows[0]), *([str(value) for value in row.values()] for row in rows)], rows, out)


def try_class(name: str) -> Row:
    """Return the row of a class; what is refused has its reason in the column `load`."""
    row: Row = {"class": name} | dict.fromkeys(("load", "cut", "several", "padding", "saved", "KL", "way"), "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = tiny_model(name)
        model.save_pretrained(path)
        row["cut"] = _cut(name, path / "cut")
        try:
            ways = agreements(path)
        except UserError as error:
            reason = next((word for words, word in REASONS.items() if words in str(error)), str(error))
            return row | {"load": f"refused:{reason}"}
        row |= {"load": "yes", "way": way(path)}
        row |= {column: _mark(all(part.is_close for part in ways[column])) for column in ("several", "padding")}
        row["saved"] = _mark(_is_read_back(model, path))
        row["KL"] = f"{max(part.kl for parts in ways.values() for part in parts):.0e}"
    return row


def agreements(path: Path) -> dict[str, list[Agreement]]:
    """Return how every way of the pipeline to the logits of a model directory agrees with plain passes.

    Raises:
        ModelError: When the model is refused.
    """
    reference, reader, trained = _plain_model(path), lm.load_model(path), lm.load_model(path, to_train=True)
    trained.train()
    lm.disable_dropout(trained)
    with torch.no_grad():
        expected = {pair: plain(reference, *pair) for pair in {*SEVERAL, *RAGGED}}
        # Where positions depend on the length, a token is written after a shorter sequence than it is scored in.
        by_prefix = reuse_of(reader).longest is not None
        written = {pair: _by_prefix(reference, *pair) for pair in expected} if by_prefix else expected
        result = {
            "several": [_agreement(expected, SEVERAL, _read(reader, SEVERAL)) for _ in range(2)],
            "padding": [_agreement(expected, RAGGED, _read(reader, RAGGED))],
            "decoding": [_agreement(written, pairs, _decoded(reader, pairs)) for pairs in (SEVERAL, RAGGED)],
        }
    result["training"] = [_trained(reference, trained, expected, SEVERAL)]
    is_sparse = getattr(trained.config, "attention_type", None) == "block_sparse"  # refused with checkpointing
    if trained.supports_gradient_checkpointing and not is_sparse:
        trained.activation_checkpointing_enable()
        result["training"].append(_trained(reference, trained, expected, RAGGED))
    return result


def way(path: Path) -> str:
    """Return `fast`, or `slow` with what reads each sequence alone, and the longest sequence of which this holds."""
    reuse, trains = reuse_of(lm.load_model(path)), reuse_of(lm.load_model(path, to_train=True)).trains
    if reuse.longest is not None and not (reuse.shares or reuse.decodes):
        return "slow"
    alone = {"scoring": not reuse.shares, "sampling": not reuse.decodes, "training": not trains}
    slow = [name for name, is_alone in alone.items() if is_alone]
    text = "slow" if len(slow) == 3 else f"slow({','.join(slow)})" if slow else "fast"
    return text if reuse.longest is None else f"{text},≤{reuse.longest}"


def plain(model: Any, prompt: int, completion: int, *, copied: bool = True) -> Tensor:
    """Return the logits [T, V] that predict a completion, from one pass of a model that has read nothing before.

    A model that is not copied keeps the gradients, and the rotary factors of earlier sequences.
    """
    fresh = copy.deepcopy(model) if copied else model
    fresh.config.get_text_config().use_cache = False
    prompt_ids, completion_ids = PROMPTS[prompt], COMPLETIONS[completion]
    if fresh.config.is_encoder_decoder:
        start = getattr(fresh.config, "decoder_start_token_id", None)
        start = fresh.generation_config.bos_token_id if start is None else start
        inputs = {"input_ids": prompt_ids, "decoder_input_ids": [start, *completion_ids[:-1]]}
        whole: Tensor = fresh(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0]
        return whole[:, :VOCAB]
    logits_SV: Tensor = fresh(input_ids=torch.tensor([prompt_ids + completion_ids])).logits[0]
    return logits_SV[len(prompt_ids) - 1 : -1, :VOCAB]


def _by_prefix(model: Any, prompt: int, completion: int) -> Tensor:
    """Return the same logits, each from a pass that ends with the token before."""
    ids = COMPLETIONS[completion]
    if model.config.is_encoder_decoder:  # its decoder's limit is not the length that matters here
        return plain(model, prompt, completion)
    passes = [torch.tensor([PROMPTS[prompt] + ids[:length]]) for length in range(len(ids))]
    return torch.stack([copy.deepcopy(model)(input_ids=ids_1S).logits[0, -1, :VOCAB] for ids_1S in passes])


def _plain_model(path: Path) -> Any:
    return auto_class(AutoConfig.from_pretrained(path)).from_pretrained(path).eval()


@torch.no_grad()
def _is_read_back(model: Any, path: Path) -> bool:
    return torch.equal(plain(model, 0, 0), plain(_plain_model(path), 0, 0))


def _cut(name: str, path: Path) -> str:
    """Return whether a model with half of its layers, written and read again, computes what it did in memory."""
    try:
        model = keep_layers(tiny_model(name), KEPT, where="layers")
        model.save_pretrained(path)
        return _mark(_is_read_back(model, path))
    except UserError:
        return "refused"
    except Exception as error:  # a class that raises anything else is a row of the table too
        return type(error).__name__


def _mark(is_right: bool) -> str:
    return "yes" if is_right else "WRONG"


def _read(model: Any, pairs: Pairs) -> list[Tensor]:
    """Return the logits of the pairs' completions from one batch of the pipeline."""
    prompts, completions = [PROMPTS[prompt] for prompt, _ in pairs], [COMPLETIONS[index] for _, index in pairs]
    logits_NV = lm.head_of(model, VOCAB)(lm.completion_hidden(model, prompts, completions))
    return list(torch.split(logits_NV, [len(ids) for ids in completions]))


def _decoded(model: Any, pairs: Pairs) -> list[Tensor]:
    """Return the same from one batch that is written token by token; finished rows leave it."""
    prompts = sorted({prompt for prompt, _ in pairs})
    decoding = lm.Decoding(model, [PROMPTS[prompt] for prompt in prompts], [prompts.index(p) for p, _ in pairs])
    texts, live = [COMPLETIONS[index] for _, index in pairs], list(range(len(pairs)))
    logits: list[list[Tensor]] = [[] for _ in pairs]
    while True:
        for row, logits_V in zip(live, decoding.logits_BV, strict=True):
            logits[row].append(logits_V[:VOCAB])
        unfinished = [len(logits[row]) < len(texts[row]) for row in live]
        if not any(unfinished):
            return [torch.stack(rows) for rows in logits]
        decoding.select(torch.tensor(unfinished))
        live = [row for row in live if len(logits[row]) < len(texts[row])]
        decoding.step(torch.tensor([texts[row][len(logits[row]) - 1] for row in live]))


def _trained(reference: Any, model: Any, expected: Expected, pairs: Pairs) -> Agreement:
    """Return the agreement of a batch in training, of its logits or of its gradients, whichever is less."""
    learner = copy.deepcopy(reference).train()  # some classes have a backward pass in training mode only
    lm.disable_dropout(learner)
    actual, gradients = _read(model, pairs), []
    for logits, of in ((actual, model), ([plain(learner, *pair, copied=False) for pair in pairs], learner)):
        of.zero_grad()
        torch.cat(logits).log_softmax(-1)[:, 5].sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([weight.grad for weight in of.parameters() if weight.grad is not None])
    largest = max(float(gradient.abs().max()) for gradient in gradients[1])
    off = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True)) / largest
    agreement = _agreement(expected, pairs, [logits_TV.detach() for logits_TV in actual])
    return replace(agreement, difference=max(agreement.difference, off))


def _agreement(expected: Expected, pairs: Pairs, actual: list[Tensor]) -> Agreement:
    p_NV, q_NV = torch.cat([expected[pair] for pair in pairs]).double(), torch.cat(actual).double()
    ratio_NV = p_NV.log_softmax(-1) - q_NV.log_softmax(-1)
    kl = (p_NV.softmax(-1) * ratio_NV).sum(-1).mean()
    return Agreement(difference=float((p_NV - q_NV).abs().max() / p_NV.abs().max()), kl=max(float(kl), 0.0))


if __name__ == "__main__":
    main()
