"""Compare a model directory with the model that was written to it.

* Guarantee: the directory, read again, has a value for every weight, none too many, and the logits of the model in
  memory on a few tokens. Otherwise a ModelError says so, before anything is published.
* Both models compute in float32 from the weights in the number format on disk, so that equal weights give equal logits.
* Cost: reading the directory once; 2 s for 135M parameters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig

from pipeline.models import lora
from pipeline.models.architectures import auto_class, probe_inputs
from pipeline.runtime.errors import ModelError

_TOLERANCE = 1e-4  # relative to the largest logit
_REMEDY = "take the model in another form (unquantised, GGUF) or of another architecture"


def in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """Return the model with its weights in a number format.

    What is in no file keeps its own, such as the frequencies of rotary positions and Marian's sines: it is computed
    in float32 when a model is read again.
    """
    unsaved = set(model._keys_to_ignore_on_save or ())
    for name, parameter in model.named_parameters():
        if name not in unsaved:
            parameter.data = parameter.data.to(dtype)
    return model


def wrong_keys(info: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the names and shapes of a checkpoint's weights, None where nothing is.

    transformers warns of it, gives missing weights random values and drops unexpected ones. Names that an architecture
    declares as unimportant are not among them.

    Args:
        info: What `from_pretrained` returns with `output_loading_info`.
    """
    findings = [
        f"{text} {len(info[kind])} weights, such as {min(_name(key) for key in info[kind])}"
        for kind, text in (
            ("missing_keys", "no value for"),
            ("unexpected_keys", "values that the model has no place for, of"),
            ("mismatched_keys", "another shape of"),
        )
        if info.get(kind)
    ]
    return " and ".join(findings) or None


def _name(key: str | tuple[str, ...]) -> str:
    """Return the name of a weight; one of another shape comes with both shapes."""
    return key if isinstance(key, str) else key[0]


@torch.no_grad()
def probe_logits(model: Any) -> Tensor:
    """Return a model's logits on a few tokens, in float32; the model's weights become float32 too.

    Raises:
        ModelError: When the model computes none, because of its configuration or because text is not enough for it.
    """
    model = model.eval().float()
    try:
        logits: Tensor = model(**probe_inputs(model), use_cache=False).logits.float().cpu()
    except Exception as error:  # the code of an architecture raises exceptions of any type
        got, remedy = " ".join(str(error).split())[:160], "check its configuration, or take another architecture"
        raise ModelError(type(model).__name__, expected="logits of a few tokens", got=got, remedy=remedy) from error
    return logits


def check_written(folder: Path, expected: Tensor, *, where: object, base: Path | None = None) -> None:
    """Check that a directory holds the model whose logits are expected.

    Args:
        folder: The directory of a model, or of an adapter.
        expected: What `probe_logits` returned of the model in memory.
        where: The final place of the directory, for messages.
        base: The directory of an adapter's base.

    Raises:
        ModelError: When the directory cannot be read again, or holds another model.
    """
    if not expected.isfinite().all():
        remedy = "take another checkpoint of the model: its weights are damaged, or it diverged in training"
        raise ModelError(where, expected="finite logits", got="NaN or infinite ones", remedy=remedy)
    try:
        model, info = auto_class(AutoConfig.from_pretrained(base or folder)).from_pretrained(
            base or folder, dtype=torch.float32, output_loading_info=True
        )
        if base is not None:
            model = lora.load_adapter(model, folder, to_train=False)
        actual = probe_logits(model)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        got = "a directory that cannot be read again: " + " ".join(str(error).split())[:160]
        raise _written_wrong(where, got) from error
    if finding := wrong_keys(info):
        raise _written_wrong(where, finding)
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
    if not difference <= _TOLERANCE:
        raise _written_wrong(where, f"logits that differ by {difference:.2g} of the largest")


def _written_wrong(where: object, got: str) -> ModelError:
    return ModelError(where, expected="to read the model again that was written", got=got, remedy=_REMEDY)
