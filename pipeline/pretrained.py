"""Model directories from wherever a model may be: a hub name, a local directory, a GGUF file, or the teacher itself.

Every model enters the pipeline once, through here, and leaves as an ordinary directory (safetensors, config,
tokenizer) that DVC tracks. A GGUF file is dequantised (16 s for 135M parameters). Students are cut from another model
by keeping some of its layers, of encoder and decoder where it has both, or start fresh from a configuration.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from pipeline import adapter
from pipeline.adapter import LoraParams
from pipeline.errors import ModelError, ParameterError
from pipeline.families import auto_class, count_layers, stacks, tied_head
from pipeline.fingerprint import model_fingerprint
from pipeline.fresh import FreshParams, check_fields, random_model
from pipeline.onnx_t5 import is_export, load_export
from pipeline.progress import bar
from pipeline.text import load_tokenizer, load_tokenizer_file

_PACKAGE = "package:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherParams:
    """Where the teacher comes from."""

    model: str | FreshParams
    """Hub name, local directory (of transformers, or of a T5 in ONNX), path of a .gguf file, or package:MODULE/PATH of
    one of these in an installed package; or a mapping: a fresh model."""
    revision: str | None
    """Branch, tag or commit of a hub model; null is its default branch."""
    dtype: Literal["bfloat16", "float32"]
    """Of the weights on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentParams:
    """Where a student starts."""

    model: str
    """`teacher`, or whatever teacher.model takes. Its tokenizer must be the teacher's."""
    revision: str | None
    """Branch, tag or commit of a hub model."""
    layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None
    """Layers to keep, counted from 0; null keeps all. For an encoder-decoder one list for both, or a mapping from
    encoder and decoder to a list each."""
    config: dict[str, object] | None
    """Not null: random weights, from the model's configuration with these fields changed."""
    lora: LoraParams | None
    """Not null: all this is frozen, and the student is an adapter to it."""


def load_pretrained(model: str, revision: str | None, *, dtype: torch.dtype, where: str) -> tuple[Any, Any]:
    """Model and tokenizer from any source; a ModelError with the remedy when they cannot be had."""
    source, options = locate(model, where)
    if is_export(Path(source)):
        with bar(f"read {model}", 2, unit="parts") as meter:
            meter.set_postfix(now="weights")
            loaded = load_export(Path(source)).to(dtype)
            meter.update()
            tokenizer = load_tokenizer_file(Path(source) / "tokenizer.json")
            meter.update()
        return loaded, tokenizer
    if revision is not None:
        options["revision"] = revision
    try:
        once = _gguf_read_once() if "gguf_file" in options else nullcontext()
        with once, bar(f"read {model}", 3, unit="parts") as meter:
            meter.set_postfix(now="tokenizer")
            tokenizer = load_tokenizer(source, **options)
            meter.set_postfix(now="configuration")
            meter.update()
            config = AutoConfig.from_pretrained(source, **options)  # not a second time below
            meter.set_postfix(now="weights")
            meter.update()
            loaded, found = auto_class(config).from_pretrained(
                source, config=config, dtype=torch.float32, output_loading_info=True, **options
            )
            meter.update()
    except ModelError as error:
        raise _unavailable(where, model, error) from error
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _unavailable(where, model, error) from error
    if missing := found["missing_keys"]:  # transformers gives them random values and a warning
        raise _unavailable(where, model, ValueError(f"no value for {len(missing)} weights, such as {min(missing)}"))
    return _dequantised(loaded).to(dtype), tokenizer


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """One reader for tokenizer, configuration and weights of a GGUF file, one table of tensor names.

    transformers opens the file for each of the three and makes the table for every module: half of the time.
    """
    import gguf  # no other source needs it

    whole = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, one in whole.items():
            setattr(gguf, name, cache(one))
        yield
    finally:
        for name, one in whole.items():
            setattr(gguf, name, one)


def locate(model: str, where: str) -> tuple[str, dict[str, Any]]:
    """What to hand to from_pretrained, and with which options."""
    if model.startswith(_PACKAGE):
        module, _, file = model.removeprefix(_PACKAGE).partition("/")
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # no parent package, or no name at all
            spec = None
        if spec is None or spec.origin is None:
            raise ModelError(where, expected=f"package {module}", got="none installed", remedy="run `make setup`")
        model = str(Path(spec.origin).parent / file)
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(where, expected=f"a file at {model}", got="nothing", remedy="run `make setup`")
        return str(path.parent), {"gguf_file": path.name}
    return model, {}


def _unavailable(where: str, model: str, error: Exception) -> ModelError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return ModelError(
        where,
        expected="a hub name, a local model directory or a GGUF file",
        got=f"{model!r} ({first})",
        remedy="check the name, the network and HF_HUB_OFFLINE",
    )


def _dequantised(model: Any) -> Any:
    """Forget that the weights came from a quantised file, so that they are saved as ordinary ones."""
    if getattr(model.config, "quantization_config", None) is not None:
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
    return model


def stored_dtype(path: Path) -> torch.dtype:
    """Of a model directory's weights on disk."""
    with safe_open(min(path.glob("*.safetensors")), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(next(iter(file.keys())))
        return tensor.dtype


def start_student(p: StudentParams, model: Any, *, seed: int, where: str) -> Any:
    """A student from the loaded model: cut to `layers`, or fresh from its configuration."""
    if p.config is not None:
        return _fresh(model, p.config, seed=seed, where=where)
    return model if p.layers is None else keep_layers(model, p.layers, where=f"{where}.layers")


def save_student(
    model: Any, tokenizer: Any, p: StudentParams, *, seed: int, base: Path, folder: Path, where: str
) -> None:
    """A student's first checkpoint: the model in `folder`, or frozen in `base` with a new adapter in `folder`.

    Without an adapter a line in `base` says so: DVC warns of an empty directory at every stage.
    """
    tokenizer.save_pretrained(folder)
    if p.lora is None:
        model.save_pretrained(folder)
        (base / "README.md").write_text("This student is no adapter: its checkpoints are whole models.\n")
        return
    model.to(getattr(torch, p.lora.base_dtype)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    torch.manual_seed(seed)
    made = adapter.attach(model, p.lora, revision=model_fingerprint(base), where=f"{where}.lora")
    adapter.save(made, folder)


def _fresh(model: Any, changes: dict[str, object], *, seed: int, where: str) -> Any:
    base = model.config
    check_fields(base, changes, where=where)
    fields = {**base.to_dict(), **changes}
    if fields.get("num_hidden_layers") != base.num_hidden_layers and "layer_types" not in changes:
        fields.pop("layer_types", None)  # one entry a layer: made anew by the configuration
    if "tie_word_embeddings" in changes:
        fields.pop("scale_decoder_outputs", None)  # T5's, which follows
    tied = bool(changes.get("tie_word_embeddings", tied_head(model)))
    return random_model(type(base), fields, tied=tied, seed=seed, where=where)


def keep_layers(model: Any, layers: tuple[int, ...] | dict[str, tuple[int, ...]], *, where: str) -> Any:
    """Depth pruning: keep these layers in this order, and everything outside them.

    A list is for every stack of the model; a mapping names encoder or decoder, and leaves the other whole.
    """
    parts = stacks(model)
    chosen = dict.fromkeys(parts, layers) if isinstance(layers, tuple) else layers
    if unknown := [side for side in chosen if side not in parts]:
        raise ParameterError(
            where, expected=f"layers of: {', '.join(parts)}", got=repr(unknown[0]), remedy="mend params.yaml"
        )
    for side, kept in chosen.items():
        _keep(parts[side], kept, where=where if isinstance(layers, tuple) else f"{where}.{side}")
    count_layers(model.config, {side: len(kept) for side, kept in chosen.items()})
    if getattr(model.config, "layer_types", None) and "decoder" in chosen:
        model.config.layer_types = [model.config.layer_types[one] for one in chosen["decoder"]]
    return model


def _keep(stack: Any, layers: tuple[int, ...], *, where: str) -> None:
    lists = {name: child for name, child in stack.named_children() if isinstance(child, torch.nn.ModuleList)}
    name, every = max(lists.items(), key=lambda item: len(item[1]))
    if not layers or any(not 0 <= one < len(every) for one in layers) or sorted(set(layers)) != list(layers):
        raise ParameterError(
            where,
            expected=f"ascending layer numbers from 0 to {len(every) - 1}",
            got=list(layers),
            remedy="mend params.yaml",
        )
    kept = torch.nn.ModuleList([every[one] for one in layers])
    for place, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.__dict__["layer_idx"] = place  # where its keys and values are kept
    _inherit_positions(every[0], kept[0])
    setattr(stack, name, kept)


def _inherit_positions(old: Any, new: Any) -> None:
    """T5's first layer holds the relative positions of all: where it goes, the new first layer gets them."""
    for name, module in old.named_modules():
        heir = new.get_submodule(name)
        if getattr(module, "has_relative_attention_bias", False) and not heir.has_relative_attention_bias:
            heir.has_relative_attention_bias = True
            heir.relative_attention_bias = module.relative_attention_bias
