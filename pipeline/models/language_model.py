"""A uniform interface to causal and encoder-decoder models: hidden states, token-by-token decoding, and the LM head.

`completion_hidden` returns the hidden states that predict the completion tokens of many sequences, end to end, and
`head_of` returns the projection onto the vocabulary that teacher and student share. `Decoding` writes completions token
by token. Masks come from lengths and never from token ids, because many tokenizers use one id for pad and eos.

* A model reads each distinct prompt once (`prefill`), and all its completions go on from the cached keys and values
  (`forward_completions`). With prompts longer than completions this saves most of the work.
* Guarantee: `load_model` compares two ways to the logits of three tokens and refuses a model whose head `head_of` does
  not reproduce, so no list of architectures is needed.
* Limit: tokens that `generate` would force or forbid (BART's first token, mBART's language) are neither.
* Under autocast the body runs in bfloat16. Logits are always float32; in bfloat16 they alone would be off by 0.05 nats.
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
from pipeline.models import forward, kv_cache, lora
from pipeline.models.architectures import auto_class
from pipeline.models.forward import DecoderInputs, EncoderOutput
from pipeline.models.head import Head
from pipeline.models.round_trip import wrong_keys
from pipeline.models.tokenizer import check_head_rows
from pipeline.runtime.errors import ModelError

Model: TypeAlias = forward.Model
# The allowed difference between two ways to the logits, relative to the largest logit; 0.03 in other number formats.
_LOGIT_TOLERANCE = {torch.float32: 1e-3}


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(precision: Precision) -> torch.dtype:
    """Return the number format of a precision; `auto` is bfloat16 where the hardware multiplies it natively."""
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and native) else torch.float32


def autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return a context of mixed precision on the current device; it does nothing for float32."""
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def load_model(
    path: Path, *, dtype: torch.dtype = torch.float32, to_train: bool = False, base: Path | None = None
) -> Model:
    """Load a language model from a model directory onto the device, in eval mode.

    Args:
        path: The directory of a model, or of an adapter, which is merged into its base.
        dtype: Number format of the weights.
        to_train: Keep an adapter separate, with the base in its stored number format. Use eager attention on a CPU,
            where the backward pass of fused attention makes a step 10 % slower. Let a tied embedding have sparse
            gradients (docs/decisions/012-sparse-embedding-gradients.md).
        base: The directory of an adapter's base; None is the directory that the adapter names.

    Raises:
        ModelError: When files are missing or damaged, a weight is missing, or the architecture is not supported.
    """
    is_adapter = lora.is_adapter(path)
    source = base if base and is_adapter else lora.base_of(path)
    transformers.utils.logging.disable_progress_bar()  # loading takes about a second
    try:
        model, info = auto_class(AutoConfig.from_pretrained(source)).from_pretrained(
            source,
            dtype="auto" if is_adapter and to_train else dtype,
            attn_implementation="eager" if to_train and device().type == "cpu" else None,
            output_loading_info=True,
        )
        if is_adapter:
            model = lora.load_adapter(model, path, to_train=to_train)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(path, expected="a language model", got=reason, remedy="run `make repro`") from error
    if finding := wrong_keys(info):
        raise ModelError(path, expected="the weights of its configuration", got=finding, remedy="run `make repro`")
    model = model.to(device()).eval()
    _check_start_token(model, path)
    _check_head(model, path)
    if to_train:
        _sparse_if_tied(model)
    return model


def _sparse_if_tied(model: Model) -> None:
    """Let a tied embedding have gradients at the rows of its tokens only, which autograd adds to the head's gradient.

    The sum is the same, and two mostly empty matrices of the vocabulary's size are saved each time tokens are read.
    """
    head = model.get_output_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.weight is head:
            module.sparse = True


def save_model(model: Model, folder: Path) -> None:
    """Write a model directory, or the directory of the adapter if the model has a separate adapter."""
    if lora.has_adapter(model):
        lora.save(model, folder)
    else:
        model.save_pretrained(folder)


def disable_dropout(model: Model) -> None:
    """Make a model in training mode compute what it computes in eval mode.

    Architectures keep their rates in modules or in attributes, all of them with "drop" in the name.
    """
    for module in model.modules():
        for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
            setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _check_start_token(model: Model, path: Path) -> None:
    if not model.config.is_encoder_decoder or getattr(model.config, "decoder_start_token_id", None) is not None:
        return
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id
    if model.config.decoder_start_token_id is None:
        expected, remedy = "the token that a decoder starts with", "set decoder_start_token_id in its config.json"
        raise ModelError(path, expected=expected, got="none", remedy=f"{remedy} (T5: the id of <pad>)")


@torch.no_grad()
def _check_head(model: Model, path: Path) -> None:
    """Check that `head_of` maps the model's hidden states to the model's logits."""
    probe, rows = [[0, 1, 2]], model.get_output_embeddings().weight.shape[0]
    expected_V = Decoding(model, probe, [0]).logits_BV[0].float()
    actual_V = head_of(model, rows)(prefill(model, probe).last_GD)[0]
    difference = float((actual_V - expected_V).abs().max() / expected_V.abs().max().clamp(min=1e-9))
    if not difference <= _LOGIT_TOLERANCE.get(model.dtype, 0.03):
        got = f"others in this {model.config.model_type}, by {difference:.0%} of the largest"
        remedy = "use another architecture, or add this one to pipeline/models/architectures.py"
        expected = "logits that are a linear map of the hidden state, soft-capped or not"
        raise ModelError(path, expected=expected, got=got, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCache:
    """The state of a model after it has read G prompts."""

    last_GD: Tensor  # the hidden state that predicts each prompt's first completion token
    mask_GS: Tensor  # 1 at the tokens that the decoder has read
    cache: Cache  # keys and values
    encoder: EncoderOutput | None


def completion_hidden(model: Model, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> Tensor:
    """Return the hidden states [N, D] that predict the completion tokens, sequence after sequence.

    Args:
        model: The model.
        prompts: Token ids of the prompt of each completion.
        completions: Token ids of each completion, at least one.
    """
    distinct, rows_B = distinct_prompts(prompts)
    if model.training and model.is_activation_checkpointing:
        return _forward_together(model, distinct, rows_B, completions)
    return forward_completions(model, prefill(model, distinct), rows_B, completions)


def _forward_together(
    model: Model, prompts: Sequence[list[int]], rows_B: Sequence[int], completions: Sequence[list[int]]
) -> Tensor:
    """Return the same states from one pass over each prompt with its completion: recomputed layers keep no cache."""
    rows = torch.tensor(rows_B, device=model.device)
    start = forward.decoder_inputs(model, prompts)
    ids_BT, mask_BT = _all_but_last_token(model, completions, multiple=1)
    inputs = DecoderInputs(
        ids_BT=torch.cat([start.ids_BT[rows], ids_BT], -1),
        mask_BS=torch.cat([start.mask_BS[rows], mask_BT], -1),
        cache=None,
        encoder=start.encoder and start.encoder.select(rows),
    )
    states_BSD, _ = forward.hidden_states(model, inputs, use_cache=False)
    first = start.ids_BT.shape[1] - 1
    ends = [first + len(completion) for completion in completions]
    return torch.cat([states_SD[first:end] for states_SD, end in zip(states_BSD, ends, strict=True)])


def _all_but_last_token(model: Model, completions: Sequence[list[int]], *, multiple: int) -> tuple[Tensor, Tensor]:
    """Return the tokens [B, T] that the model reads, and their mask: the successor of a last token is never scored."""
    longest = (limit := forward.max_padded_length(model)) and limit - 1  # the start token has one of the positions
    shortened = [completion[:-1] for completion in completions]
    ids_BT, mask_BT = forward.padded(shortened, left=False, multiple=multiple, longest=longest)
    return ids_BT.to(model.device), mask_BT.to(model.device)


def prefill(model: Model, prompts: Sequence[list[int]], *, multiple: int = 1) -> PromptCache:
    """Read G prompts, padded to a multiple of `multiple` tokens."""
    start = forward.decoder_inputs(model, prompts, multiple=multiple)
    states_GSD, cache = forward.hidden_states(model, start)
    return PromptCache(last_GD=states_GSD[:, -1], mask_GS=start.mask_BS, cache=cache, encoder=start.encoder)


def forward_completions(
    model: Model, prefix: PromptCache, rows_B: Sequence[int], completions: Sequence[list[int]], *, multiple: int = 1
) -> Tensor:
    """Return the hidden states [N, D] of B completions, sequence after sequence.

    Args:
        model: The model.
        prefix: The prompts, already read; it stays as it is.
        rows_B: The prompt of each completion, as a row of `prefix`.
        completions: Token ids of each completion, at least one.
        multiple: The completions are padded to a multiple of this number of tokens.
    """
    rows = torch.tensor(rows_B, device=model.device)
    first_BD = prefix.last_GD[rows]
    lengths = [len(completion) for completion in completions]
    if max(lengths) == 1:
        return first_BD
    ids_BT, mask_BT = _all_but_last_token(model, completions, multiple=multiple)
    inputs = DecoderInputs(
        ids_BT=ids_BT,
        mask_BS=torch.cat([prefix.mask_GS[rows], mask_BT], -1),
        cache=kv_cache.select_rows(prefix.cache, rows),
        encoder=prefix.encoder and prefix.encoder.select(rows),
    )
    rest_BTD, _ = forward.hidden_states(model, inputs)
    hidden_BTD = torch.cat([first_BD[:, None], rest_BTD], 1)
    return torch.cat([hidden_TD[:length] for hidden_TD, length in zip(hidden_BTD, lengths, strict=True)])


class Decoding:
    """B completions that a model writes token by token.

    `logits_BV` are the model's own logits of the next token.
    """

    def __init__(self, model: Model, prompts: Sequence[list[int]], rows_B: Sequence[int]) -> None:
        """Read the prompts once; each completion follows the prompt at its row."""
        self._model, rows = model, torch.tensor(rows_B, device=model.device)
        start = forward.decoder_inputs(model, prompts)
        logits_GV, self._cache = forward.next_logits(model, start)
        self.logits_BV, self._mask_BS = logits_GV[rows], start.mask_BS[rows]
        self._encoder = start.encoder and start.encoder.select(rows)
        self._cache.batch_select_indices(rows)
        kv_cache.preallocate(self._cache)

    def select(self, unfinished_B: Tensor) -> None:
        """Keep the rows where the mask is true. Call `step` with their tokens next: `logits_BV` stays as it is."""
        if unfinished_B.all():
            return
        rows = unfinished_B.nonzero()[:, 0].to(self._model.device)
        self._mask_BS, self._encoder = self._mask_BS[rows], self._encoder and self._encoder.select(rows)
        self._cache.batch_select_indices(rows)

    def step(self, ids_B: Tensor) -> None:
        """Append one token to each completion and compute the logits of the next."""
        self._mask_BS = torch.cat([self._mask_BS, torch.ones_like(self._mask_BS[:, :1])], -1)
        ids_B1 = ids_B[:, None].to(self._model.device)
        inputs = DecoderInputs(ids_BT=ids_B1, mask_BS=self._mask_BS, cache=self._cache, encoder=self._encoder)
        self.logits_BV, self._cache = forward.next_logits(self._model, inputs)


def head_of(model: Model, vocab: int) -> Head:
    """Return the LM head of a model, cut to the first `vocab` token ids."""
    head = model.get_output_embeddings()
    # BART and its relatives add final_logits_bias [1, V].
    biases = [bias.flatten() for bias in (head.bias, getattr(model, "final_logits_bias", None)) if bias is not None]
    weight_VD, bias_V = head.weight, sum(biases) if biases else None
    return Head(
        weight_VD=weight_VD if len(weight_VD) == vocab else weight_VD[:vocab],
        bias_V=bias_V if bias_V is None or len(bias_V) == vocab else bias_V[:vocab],
        softcap=getattr(model.config, "final_logit_softcapping", None),
    )


def check_vocabulary(model: Model, vocab: int, *, where: Path) -> None:
    """Check that a model's head has a row for every token id of a vocabulary.

    Raises:
        ModelError: When it has fewer rows.
    """
    check_head_rows(model.get_output_embeddings().weight.shape[0], vocab, where=where)
