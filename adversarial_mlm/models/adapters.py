"""LoRA: add adapters to an encoder, read the folder of an adapter, and merge an adapter into its encoder.

`peft` is imported where it is needed. Only its function for saving is used on files: configurations are read as JSON
and checked field by field, and weights are safetensors.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.utils.errors import CheckpointError, clip

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
KINDS = ("lora",)

DEFAULT_TARGETS = {
    "bert": ("query", "value"),
    "esm": ("query", "value"),
    "roberta": ("query", "value"),
    "modernbert": ("Wqkv",),
}
"""Modules that get an adapter by default, by the type of the encoder: the attention's queries and values."""

_ALL_LINEAR = "all-linear"
_PREFIX = "base_model.model."
_LONGEST_REASON = 300
# fields of adapter_config.json that are used; all others must have their defaults
_USED = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "bias", "fan_in_fan_out"),
    *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
    "modules_to_save",
)
_WITHOUT_EFFECT = (
    *("peft_type", "peft_version", "auto_mapping", "inference_mode", "task_type", "base_model_name_or_path"),
    *("revision", "runtime_config", "init_lora_weights"),
)


@dataclass(frozen=True)
class LoraSettings:
    """Options of LoRA.

    Args:
        rank (`int`, *optional*, defaults to 8): Rank of the matrices that are added to a module's weights.
        alpha (`float`, *optional*): Scale: the product of the matrices counts alpha / rank times. By default 2 × rank.
        dropout (`float`, *optional*, defaults to 0.0): Dropout of the adapters' inputs in training.
        target_modules (`Sequence[str]`, *optional*): Last parts of the names of linear modules, or `all-linear`; by
            default those in `DEFAULT_TARGETS`.

    Raises:
        ValueError: If a value is out of range; the message names the option.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: Sequence[str] = ()

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"lora_rank must be at least 1, got {self.rank}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"lora_alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora_dropout must be at least 0 and below 1, got {self.dropout}")


LORA_OPTIONS = {
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target_modules",
}
"""From options of a command line to the fields of [`LoraSettings`]."""


def lora_settings(options: Any) -> LoraSettings | None:
    """Read the options `peft`, `lora_rank` and so on of an object.

    Args:
        options: Has an attribute for each option. What is not set is `None` or an empty list.

    Returns:
        [`LoraSettings`], or `None` if `peft` is not set.

    Raises:
        ValueError: If a value is out of range, or if an option has no effect.
    """
    said = {field: getattr(options, name) for name, field in LORA_OPTIONS.items()}
    said = {field: value for field, value in said.items() if value not in (None, [], ())}
    if options.peft is None:
        if said:
            name = next(name for name, field in LORA_OPTIONS.items() if field in said)
            raise ValueError(f"{name} is given, but only has an effect with peft: lora: set peft, or remove it")
        return None
    if options.peft not in KINDS:
        raise ValueError(f"peft must be lora, got '{options.peft}'")
    return LoraSettings(**said)


def add_lora(model: PreTrainedModel, settings: LoraSettings, base: str, revision: str | None = None) -> Any:
    """Put LoRA adapters into an encoder, in place. All other parameters are frozen.

    Args:
        model (`PreTrainedModel`): The encoder, with or without a head.
        settings ([`LoraSettings`]): The options.
        base (`str`): Folder or name on the Hub that the encoder was loaded from, for the adapter's configuration.
        revision (`str`, *optional*): Branch, tag or commit of it.

    Returns:
        `peft.PeftModel`, which shares the modules of `model`.

    Raises:
        ValueError: If `peft` is not installed, if a target is not a linear module of the encoder, or if the encoder is
            itself an adapter's.
    """
    if is_adapter(base):
        raise ValueError(
            f"peft is lora, but model_name_or_path {base} is an adapter: merge it first (merge_adapter: true), and "
            "give the merged folder"
        )
    peft = _peft("peft: lora")
    targets = _targets(model, settings.target_modules)
    size = min(min(module.weight.shape) for module in _linear_modules(model, targets).values())
    if settings.rank > size:
        raise ValueError(
            f"lora_rank is {settings.rank}, but the smallest matrix it is added to has rank {size}: use a lower rank"
        )
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    adapted = _adapted(peft, model, config)
    own = adapted.peft_config["default"]
    own.base_model_name_or_path, own.revision = base, revision
    return adapted


def is_adapter(name_or_path: str) -> bool:
    """Whether a folder is that of an adapter."""
    return Path(name_or_path, ADAPTER_CONFIG).is_file()


def _peft(what: str) -> Any:
    """Import `peft`; `what` needs it."""
    try:
        import peft
    except ImportError as error:
        raise ValueError(f'{what} needs the package peft: pip install "adversarial-mlm[peft]"') from error
    return peft


def _adapted(peft: Any, model: PreTrainedModel, config: Any) -> Any:
    with warnings.catch_warnings():  # peft reads an attribute of transformers that will be removed
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return peft.get_peft_model(model, config)


def _targets(model: PreTrainedModel, names: Sequence[str]) -> str | list[str]:
    kind = model.config.model_type
    if list(names) == [_ALL_LINEAR]:
        return _ALL_LINEAR
    if not names and kind not in DEFAULT_TARGETS:
        raise ValueError(
            f"lora_target_modules is missing: there is no default for an encoder of the type {kind}; it has the "
            f"linear modules {_linear_names(model)}"
        )
    found = list(names or DEFAULT_TARGETS[kind])
    for name in found:
        if not _linear_modules(model, [name]):
            raise ValueError(
                f"lora_target_modules names '{name}', but a {type(model).__name__} has no such linear module: choose "
                f"from {_linear_names(model)}"
            )
    return found


def _linear_modules(model: PreTrainedModel, names: str | Sequence[str]) -> dict[str, nn.Linear]:
    """Return the linear modules whose names end with one of `names`, but not those with the embeddings' weights."""
    embeddings = model.get_input_embeddings().weight
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight is not embeddings
        and (names == _ALL_LINEAR or any(path == name or path.endswith(f".{name}") for name in names))
    }


def _linear_names(model: PreTrainedModel) -> str:
    last_parts = (path.rpartition(".")[2] for path in _linear_modules(model, _ALL_LINEAR))
    return ", ".join([*dict.fromkeys(last_parts), _ALL_LINEAR])


# ---- Folders of adapters ----


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that was read from a folder.

    Attributes:
        subject: Start of sentences about it.
        base: Folder or name on the Hub of its encoder.
        revision: Branch, tag or commit of it.
        options: Options of `peft.LoraConfig`.
        weights: Its tensors.
    """

    subject: str
    base: str
    revision: str | None
    options: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]

    def is_within(self, prefix: str) -> bool:
        """Whether it is for a model with a head, which calls its encoder `prefix`."""
        return any(name.startswith(f"{_PREFIX}{prefix}.") for name in self.weights)

    def put_into(self, model: PreTrainedModel) -> Any:
        """Put the adapter into its encoder, in place.

        Args:
            model (`PreTrainedModel`): The encoder.

        Returns:
            `peft.PeftModel`: It shares the modules of `model`. Only the adapter can be trained.

        Raises:
            CheckpointError: If `peft` is not installed, or if the adapter does not fit.
        """
        try:
            peft = _peft("an adapter")
            adapted = _adapted(peft, model, peft.LoraConfig(**self.options))
        except ValueError as error:
            raise CheckpointError(f"{self.subject}, but {_one_line(error)}") from error
        except Exception as error:  # foreign values in the configuration make peft raise any kind of error
            raise CheckpointError(f"{self.subject}, which cannot be used ({_one_line(error)})") from error
        own = adapted.peft_config["default"]
        own.base_model_name_or_path, own.revision = self.base, self.revision
        load_weights(self.subject, adapted, self.weights)
        return adapted


def read_adapter(subject: str, folder: str) -> Adapter:
    """Read an adapter. Neither its encoder nor any code is loaded.

    Args:
        subject (`str`): Start of sentences about it.
        folder (`str`): The folder.

    Raises:
        CheckpointError: If it is not a LoRA adapter, if its weights are not safetensors, if a file is damaged, or if
            it uses an option that is not supported.
    """
    subject = f"{subject}, an adapter"
    try:
        said = json.loads(Path(folder, ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base, revision, kind = (said.get(name) for name in ("base_model_name_or_path", "revision", "peft_type"))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{subject} with a damaged {ADAPTER_CONFIG} ({_one_line(error)})") from error
    if kind != "LORA":
        raise CheckpointError(f"{subject} of the kind {_one_line(kind)}; only LoRA is supported: merge it with peft")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{subject} whose {ADAPTER_CONFIG} names no base model (base_model_name_or_path)")
    weights = read_weights(subject, folder)
    return Adapter(subject, base, revision or None, _options(subject, said, weights), weights)


def read_weights(subject: str, folder: str) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter in a folder.

    Raises:
        CheckpointError: If there are none as safetensors, or if they are damaged.
    """
    path = Path(folder, ADAPTER_WEIGHTS)
    if not path.is_file():
        raise CheckpointError(f"{subject} without {ADAPTER_WEIGHTS}; pickled weights are not read")
    try:
        return load_file(path)
    except Exception as error:  # of a damaged file
        raise CheckpointError(f"{subject} with a damaged {ADAPTER_WEIGHTS} ({_one_line(error)})") from error


def _options(subject: str, said: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the options that are used, and refuse others that are not at their defaults."""
    peft = _peft_for(subject)
    defaults = vars(peft.LoraConfig())
    for name, value in said.items():
        ignored = name in _USED or name in _WITHOUT_EFFECT
        if not ignored and value and value != defaults.get(name):
            raise CheckpointError(f"{subject} with {_one_line(name)}, which is not supported: merge it with peft")
    if said.get("init_lora_weights", True) not in (True, False, None, "gaussian"):
        raise CheckpointError(
            f"{subject} that changes its base model (init_lora_weights is {_one_line(said['init_lora_weights'])}), "
            "which is not supported: merge it with peft"
        )
    options = {name: said[name] for name in _USED if said.get(name) is not None}
    pattern = options.get("rank_pattern") or {}
    ranks = [options.get("r", 8), *(pattern.values() if isinstance(pattern, dict) else [pattern])]
    rows = max((tensor.shape[0] for name, tensor in weights.items() if ".lora_A." in name), default=0)
    if not all(isinstance(rank, int) and 1 <= rank <= rows for rank in ranks):
        raise CheckpointError(f"{subject} whose weights do not have the rank that {ADAPTER_CONFIG} says")
    return options


def _peft_for(subject: str) -> Any:
    try:
        return _peft("it")
    except ValueError as error:
        raise CheckpointError(f"{subject}, and {error}") from error


def load_weights(subject: str, adapted: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Load the tensors of an adapter into a model that has one.

    Args:
        subject (`str`): Start of sentences about them.
        adapted (`peft.PeftModel`): The model.
        weights (`Mapping[str, torch.Tensor]`): Result of [`read_weights`].

    Raises:
        CheckpointError: If the model's adapter has other tensors or shapes.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for verb, names in (("lacks", own.keys() - weights.keys()), ("also has", weights.keys() - own.keys())):
        if names:
            raise CheckpointError(f"{subject} that does not fit: it {verb} the tensor {_one_line(min(names))}")
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            shapes = ["×".join(map(str, shape)) for shape in (tensor.shape, own[name].shape)]
            raise CheckpointError(f"{subject} that does not fit: {name} is {shapes[0]}, not {shapes[1]}")
    set_peft_model_state_dict(adapted, dict(weights))


def merged(adapted: Any) -> PreTrainedModel:
    """Add the adapter to the weights of its encoder, in place, and return the encoder, all of which can be trained."""
    return adapted.merge_and_unload().requires_grad_(True)


def is_adapted(model: nn.Module) -> bool:
    """Whether a model is a `peft.PeftModel`."""
    return hasattr(model, "merge_and_unload") or hasattr(getattr(model, "base_model", None), "merge_and_unload")


def _one_line(error: object) -> str:
    return clip(" ".join(str(error).split()) or type(error).__name__, _LONGEST_REASON)
