"""Language models behind one face: with `passes`, all that shifts, pads or knows transformers' model classes.

`completion_hidden` gives the hidden state that predicts each completion token, for many sequences end to end, and
`head_of` the projection onto the vocabulary that both models share. A model reads each distinct prompt once
(`prefill`), whatever the number of its completions, which then go on from its keys and values (`forward_completions`):
with prompts longer than completions that is most of the work. `Decoding` writes completions token by token. All of them
take decoders and encoder-decoders alike; `passes` knows how the two differ. Masks come from lengths, never from token
ids (many tokenizers use one id for pad and eos).

A family that does something else between states and logits than `head_of` knows is refused when it is loaded: the two
ways to the logits of three tokens are compared, so no list of families is kept. What `generate` would force or forbid
(BART's first token, mBART's language) is not applied: a completion is what the model itself finds likely.

Under autocast the body runs in bf16; logits are always fp32, because in bf16 they alone differ by .05 nats.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, Cache

from pipeline.core.prompt_sharing import distinct_prompts
from pipeline.core.types import Precision
from pipeline.models import forward as passes
from pipeline.models import kv_cache
from pipeline.models import lora as adapter
from pipeline.models.architectures import auto_class
from pipeline.models.forward import EncoderOutput
from pipeline.models.head import Head
from pipeline.runtime.errors import ModelError

Model: TypeAlias = passes.Model
_AGREEMENT = {torch.float32: 1e-3}  # of the two ways to the logits, relative to the largest; .03 in other dtypes


def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(precision: Precision) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32."""
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "bfloat16" or (precision == "auto" and native):
        return torch.bfloat16
    return torch.float32


def autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Mixed precision on the current device; does nothing for float32."""
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def load_model(
    path: Path, *, dtype: torch.dtype = torch.float32, to_train: bool = False, base: Path | None = None
) -> Model:
    """A language model from a local directory, on the device, in eval mode.

    An adapter is merged into its base. `to_train` keeps the two apart, the base in its own dtype; picks eager attention
    on a CPU, where the backward pass of the fused one takes 10 % of a step longer; and lets a tied embedding's gradient
    be sparse. `base` is where an adapter's base lies, if not where the adapter says.
    """
    has_adapter = adapter.is_adapter(path)
    source = base if base and has_adapter else adapter.base_of(path)
    attention = "eager" if to_train and device().type == "cpu" else None
    transformers.utils.logging.disable_progress_bar()  # a second's work
    try:
        model, found = auto_class(AutoConfig.from_pretrained(source)).from_pretrained(
            source,
            dtype="auto" if has_adapter and to_train else dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
        if has_adapter:
            model = adapter.join(model, path, to_train=to_train)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(path, expected="a language model", got=first, remedy="run `make repro`") from error
    if missing := found["missing_keys"]:  # transformers gives them random values and a warning
        got = f"none for {len(missing)} of them, such as {min(missing)}"
        raise ModelError(path, expected="a value for every weight", got=got, remedy="run `make repro`")
    model = model.to(device()).eval()
    _check_start(model, path)
    _check_head(model, path)
    if to_train:
        _sparse_if_tied(model)
    return model


def _sparse_if_tied(model: Model) -> None:
    """Let the gradient of an embedding that is the head too be its tokens' rows, which autograd adds to the head's: it
    is the same, and spares two matrices of the vocabulary, most of them zeros, each time that tokens are read."""
    head = model.get_output_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.weight is head:
            module.sparse = True


def save_model(model: Model, folder: Path) -> None:
    """A model's directory, or that of its adapter alone."""
    if adapter.has_adapter(model):
        adapter.save(model, folder)
    else:
        model.save_pretrained(folder)


def disable_dropout(model: Model) -> None:
    """A model in training mode then computes what it computes in eval mode.

    Families keep their rates in modules or beside them, under names that all have "drop" in them.
    """
    for module in model.modules():
        for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
            setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _check_start(model: Model, path: Path) -> None:
    if not model.config.is_encoder_decoder or getattr(model.config, "decoder_start_token_id", None) is not None:
        return
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id
    if model.config.decoder_start_token_id is None:
        raise ModelError(
            path,
            expected="the token that a decoder starts with",
            got="none",
            remedy="set decoder_start_token_id in its config.json (T5: the id of <pad>)",
        )


@torch.no_grad()
def _check_head(model: Model, path: Path) -> None:
    """A ModelError when the model's logits are not what `head_of` makes of its states."""
    probe, rows = [[0, 1, 2]], model.get_output_embeddings().weight.shape[0]
    wanted_V = Decoding(model, probe, [0]).logits_BV[0].float()
    found_V = head_of(model, rows)(prefill(model, probe).last_GD)[0]
    off = float((found_V - wanted_V).abs().max() / wanted_V.abs().max().clamp(min=1e-9))
    if not off <= _AGREEMENT.get(model.dtype, 0.03):
        raise ModelError(
            path,
            expected="logits that are a linear map of the hidden state, soft-capped or not",
            got=f"others in this {model.config.model_type}, by {off:.0%} of the largest",
            remedy="use another family; pipeline/families.py is where to add this one",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCache:
    """G prompts that a model has read."""

    last_GD: Tensor  # the hidden state that predicts each prompt's first completion token
    mask_GS: Tensor  # 1 at the tokens that the decoder has read
    cache: Cache  # keys and values
    source: EncoderOutput | None  # of an encoder


def completion_hidden(model: Model, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> Tensor:
    """Hidden states [N, D] that predict the completion tokens, sequences end to end in the given order."""
    distinct, rows_B = distinct_prompts(prompts)
    if model.training and model.is_activation_checkpointing:
        return _forward_together(model, distinct, rows_B, completions)
    return forward_completions(model, prefill(model, distinct), rows_B, completions)


def _forward_together(
    model: Model, prompts: Sequence[list[int]], rows_B: Sequence[int], completions: Sequence[list[int]]
) -> Tensor:
    """The same in one pass over each prompt with its completion: layers that are computed again keep no cache."""
    rows, lengths = torch.tensor(rows_B, device=model.device), [len(completion) for completion in completions]
    start = passes.decoder_inputs(model, prompts)
    rest_BT, own_BT = _without_last(model, completions, multiple=1)
    states_BSD, _ = passes.hidden(
        model,
        torch.cat([start.ids_GS[rows], rest_BT], -1),
        torch.cat([start.mask_GS[rows], own_BT], -1),
        None,
        start.source and start.source.take(rows),
        keep=False,
    )
    first = start.ids_GS.shape[1] - 1
    return torch.cat([states_SD[first : first + one] for states_SD, one in zip(states_BSD, lengths, strict=True)])


def _without_last(model: Model, completions: Sequence[list[int]], *, multiple: int) -> tuple[Tensor, Tensor]:
    """What there is to read of completions [B, T] and the mask of it: nobody asks what follows the last token."""
    most = (places := passes.max_padded_length(model)) and places - 1  # the start token has one
    both = passes.padded([one[:-1] for one in completions], left=False, multiple=multiple, most=most)
    return both[0].to(model.device), both[1].to(model.device)


def prefill(model: Model, prompts: Sequence[list[int]], *, multiple: int = 1) -> PromptCache:
    """One pass over G prompts, padded to a multiple of `multiple` tokens."""
    start = passes.decoder_inputs(model, prompts, multiple=multiple)
    states_GSD, cache = passes.hidden(model, start.ids_GS, start.mask_GS, start.cache, start.source)
    return PromptCache(last_GD=states_GSD[:, -1], mask_GS=start.mask_GS, cache=cache, source=start.source)


def forward_completions(
    model: Model, prefix: PromptCache, rows_B: Sequence[int], completions: Sequence[list[int]], *, multiple: int = 1
) -> Tensor:
    """Hidden states [N, D] of B completions, each after the prompt at its row of the prefix, which stays as it is.

    They are padded to a multiple of `multiple` tokens.
    """
    rows = torch.tensor(rows_B, device=model.device)
    lengths = [len(completion) for completion in completions]
    first_BD = prefix.last_GD[rows]
    if max(lengths) == 1:
        return first_BD
    rest_BT, own_BT = _without_last(model, completions, multiple=multiple)
    rest_BTD, _ = passes.hidden(
        model,
        rest_BT,
        torch.cat([prefix.mask_GS[rows], own_BT], -1),
        kv_cache.select_rows(prefix.cache, rows),
        prefix.source and prefix.source.take(rows),
    )
    hidden_BTD = torch.cat([first_BD[:, None], rest_BTD], 1)
    return torch.cat([hidden_TD[:length] for hidden_TD, length in zip(hidden_BTD, lengths, strict=True)])


class Decoding:
    """B completions that a model writes, a token at a time; `logits_BV` are its own of what comes next."""

    def __init__(self, model: Model, prompts: Sequence[list[int]], rows_B: Sequence[int]) -> None:
        """Each completion follows the prompt at its row of `prompts`, which are read once."""
        self._model, rows = model, torch.tensor(rows_B, device=model.device)
        start = passes.decoder_inputs(model, prompts)
        logits_GV, self._cache = passes.logits(model, start.ids_GS, start.mask_GS, start.cache, start.source)
        self.logits_BV, self._mask_BS = logits_GV[rows], start.mask_GS[rows]
        self._source = start.source and start.source.take(rows)
        self._cache.batch_select_indices(rows)
        kv_cache.preallocate(self._cache)

    def keep(self, going_B: Tensor) -> None:
        """Go on with the rows that are true; the others have ended."""
        if going_B.all():
            return
        rows = going_B.nonzero()[:, 0].to(self._model.device)
        self._mask_BS, self._source = self._mask_BS[rows], self._source and self._source.take(rows)
        self._cache.batch_select_indices(rows)

    def step(self, ids_B: Tensor) -> None:
        """Read the tokens that were chosen."""
        self._mask_BS = torch.cat([self._mask_BS, torch.ones_like(self._mask_BS[:, :1])], -1)
        ids_B1 = ids_B[:, None].to(self._model.device)
        self.logits_BV, self._cache = passes.logits(self._model, ids_B1, self._mask_BS, self._cache, self._source)


def head_of(model: Model, vocab: int) -> Head:
    """The projection onto the first `vocab` ids."""
    head = model.get_output_embeddings()
    biases = [head.bias, getattr(model, "final_logits_bias", None)]  # BART and its kin have the second, [1, V]
    found = [one.flatten() for one in biases if one is not None]
    weight_VD, bias_V = head.weight, sum(found) if found else None
    return Head(
        weight_VD=weight_VD if len(weight_VD) == vocab else weight_VD[:vocab],
        bias_V=bias_V if bias_V is None or len(bias_V) == vocab else bias_V[:vocab],
        softcap=getattr(model.config, "final_logit_softcapping", None),
    )


def check_vocabulary(model: Model, vocab: int, *, where: Path) -> None:
    """A ModelError when the tokenizer has ids that the model's head does not."""
    rows = model.get_output_embeddings().weight.shape[0]
    if rows < vocab:
        raise ModelError(
            where, expected=f"a head of at least {vocab} tokens", got=f"{rows}", remedy="use the model's own tokenizer"
        )
