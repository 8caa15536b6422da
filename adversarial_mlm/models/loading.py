"""Load an encoder or a noiser from a folder or the Hub.

Code that comes with a checkpoint is never run. Weights are read from safetensors, everything else from JSON.
"""

import contextlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file
from transformers.utils import logging as transformers_logging

from adversarial_mlm.models.adapters import ADAPTER_CONFIG, is_adapter, merged, read_adapter
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.models.tokenization_protein import ByteTable, ResidueVocabulary
from adversarial_mlm.utils.errors import CheckpointError, clip
from adversarial_mlm.utils.hub_address import host_without_address

logger = transformers_logging.get_logger(__name__)

NOISER_FOLDER = "noiser"

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# read safetensors only, and return a report of what does not fit instead of printing it
STRICTLY: dict[str, Any] = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
# Foreign or damaged files cause errors of many classes: Exception itself (tokenizers), ImportError (quantisers) and
# others.
LOADING_ERRORS = Exception
_LONGEST_REASON = 300  # characters of a library's message; some messages quote a whole file


def load_encoder(
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    *,
    needs_head: bool = False,
    keep_adapter: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked language model and its tokenizer, in float32.

    Args:
        name_or_path (`str` or path): A folder, or the name of a model on the Hub.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        needs_head (`bool`, *optional*, defaults to `False`): Whether to refuse a model without a masked-language-
            modelling head. By default, there is a warning and the head starts with random weights.
        keep_adapter (`bool`, *optional*, defaults to `False`): Whether to return a `peft.PeftModel` for the folder of
            an adapter. By default the adapter is merged into its encoder.

    Returns:
        `PreTrainedModel` (from `AutoModelForMaskedLM`) and `PreTrainedTokenizerBase`.

    Raises:
        CheckpointError: If there is no such model, or if it is not an encoder for masked-language modelling. If its
            files are damaged, do not fit its configuration, lack weights of the encoder, or are not safetensors. If
            it is quantised, needs its own code, or has a tokenizer that cannot be used for proteins. If it is an
            adapter on the Hub, or one without its encoder.
    """
    name_or_path = os.fspath(name_or_path)
    subject = f"model_name_or_path is {name_or_path}"
    source = _source(name_or_path, revision, subject)
    if is_adapter(name_or_path):
        adapted, model, tokenizer = _load_adapted(subject, name_or_path, source, needs_head=True)
        if keep_adapter:
            return adapted, tokenizer
        merged(adapted)
        return model.requires_grad_(True), tokenizer
    check_no_adapter(subject, name_or_path, source)
    _check_no_noiser(subject, name_or_path)
    with explaining_failure(subject, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **source)
        check_weight_files(subject, name_or_path, config, source)
        model, report = _load_strictly(AutoModelForMaskedLM, name_or_path, config=config, **source)
    _check_weights(subject, model, report)
    if needs_head and report["missing_keys"]:
        raise CheckpointError(f"{subject}, which has no masked-language-modelling head; use a ...ForMaskedLM model")
    _check_no_decoder(subject, model)
    return model, _load_tokenizer(subject, name_or_path, source, needs_mask=True)


def load_backbone(
    name_or_path: str | os.PathLike[str], revision: str | None = None, *, from_scratch: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder without a head, and its tokenizer, in float32.

    Args:
        name_or_path (`str` or path): A folder, or the name of a model on the Hub; any model that `AutoModel` supports.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        from_scratch (`bool`, *optional*, defaults to `False`): Use only the configuration, with random weights.

    Returns:
        `PreTrainedModel` (from `AutoModel`, without a pooler) and `PreTrainedTokenizerBase`.

    Raises:
        CheckpointError: As [`load_encoder`], and if the model is a task model with an encoder in it.
    """
    name_or_path = os.fspath(name_or_path)
    subject = f"model_name_or_path is {name_or_path}"
    source = _source(name_or_path, revision, subject)
    if is_adapter(name_or_path):
        adapted, model, tokenizer = _load_adapted(subject, name_or_path, source, needs_head=False)
        merged(adapted)
        backbone = cast(PreTrainedModel, model.base_model).requires_grad_(True)
        return (new_backbone(backbone.config) if from_scratch else backbone), tokenizer
    check_no_adapter(subject, name_or_path, source)
    _check_no_noiser(subject, name_or_path)
    with explaining_failure(subject, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **source)
        if hasattr(config, "encoder_config"):
            raise CheckpointError(f"{subject}, which contains an encoder but is not one itself ({config.model_type})")
        if from_scratch:
            model, report = new_backbone(config), None
        else:
            check_weight_files(subject, name_or_path, config, source)
            options = {"config": config, **_without_pooler(config), **source}
            model, report = _load_strictly(AutoModel, name_or_path, **options)
    if report is not None:
        _check_weights(subject, model, report)
    _check_no_decoder(subject, model)
    return model, _load_tokenizer(subject, name_or_path, source, needs_mask=False)


def _load_adapted(
    subject: str, folder: str, source: dict[str, Any], *, needs_head: bool
) -> tuple[Any, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an adapter and its encoder.

    Returns:
        `peft.PeftModel`, around the encoder with its head or around the encoder in it; the encoder with its head; and
        the tokenizer.
    """
    adapter = read_adapter(subject, folder)
    if is_adapter(adapter.base):
        raise CheckpointError(f"{adapter.subject} of {adapter.base}, which is an adapter itself: merge that one first")
    try:
        model, tokenizer = load_encoder(adapter.base, adapter.revision, needs_head=needs_head)
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter.subject} whose base model {shortened(adapter.base)} is missing or cannot be used ({error})"
        ) from error
    backbone = cast(PreTrainedModel, model.base_model)
    adapted = adapter.put_into(model if adapter.is_within(model.base_model_prefix) else backbone)
    backbone.name_or_path = model.name_or_path = folder
    if Path(folder, "tokenizer_config.json").is_file():
        tokenizer = _load_tokenizer(subject, folder, source, needs_mask=True)
    return adapted, model, tokenizer


def _load_strictly(model_class: Any, name_or_path: str, **options) -> tuple[Any, dict[str, Any]]:
    """Load a model in float32.

    Returns:
        The model, and the library's report of missing and mismatched weights.
    """
    with quiet_loading():
        return model_class.from_pretrained(name_or_path, dtype=torch.float32, **STRICTLY, **options)


def new_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A new encoder with random weights, without a head or pooler, in PyTorch's default precision."""
    return AutoModel.from_config(config, dtype=torch.get_default_dtype(), **_without_pooler(config))


def _without_pooler(config: PreTrainedConfig) -> dict:
    """The option that leaves out the pooler, if the model has this option. Masked-LM training does not train it."""
    return {"add_pooling_layer": False} if has_optional_pooler(config) else {}


def has_optional_pooler(config: PreTrainedConfig) -> bool:
    """Whether `AutoModel` takes `add_pooling_layer` for this configuration, and otherwise adds a pooler."""
    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class is None or isinstance(model_class, tuple):
        return False
    return "add_pooling_layer" in inspect.signature(model_class).parameters


def _check_no_decoder(subject: str, model: PreTrainedModel) -> None:
    if model.config.is_encoder_decoder:
        raise CheckpointError(f"{subject}, a {type(model).__name__}, which has a decoder; only encoders are supported")


def load_noiser(name_or_path: str | os.PathLike[str], revision: str | None = None) -> NoiserModel:
    """Load a trained noiser.

    Args:
        name_or_path (`str` or path): The folder of a noiser, or the folder or Hub name of a model with a noiser in
            `noiser/`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        CheckpointError: If there is no noiser, or if its files are damaged or do not fit its configuration.
    """
    name_or_path = os.fspath(name_or_path)
    subject = f"noiser_name_or_path is {name_or_path}"
    source = _source(name_or_path, revision, subject)
    subfolder = "" if _is_noiser(name_or_path) else NOISER_FOLDER
    path = os.path.join(name_or_path, subfolder) if subfolder else name_or_path
    if Path(name_or_path).is_dir() and not Path(path).is_dir():
        raise CheckpointError(f"{subject}, which is not a noiser and has none in {NOISER_FOLDER}/")
    source["subfolder"] = subfolder
    check_no_adapter(subject, name_or_path, source)
    with explaining_failure(subject, path):
        config = NoiserModel.config_class.from_pretrained(name_or_path, **source)
        check_weight_files(subject, name_or_path, config, source)
        noiser, report = _load_strictly(NoiserModel, name_or_path, config=config, **source)
    _check_weights(subject, noiser, report)
    return noiser


def _check_no_noiser(subject: str, name_or_path: str) -> None:
    if _is_noiser(name_or_path):
        raise CheckpointError(f"{subject}, which is a noiser and not an encoder: give the folder of the encoder")


def _is_noiser(folder: str) -> bool:
    return _model_type(folder) == NoiserModel.config_class.model_type


def _model_type(folder: str) -> str | None:
    try:
        return json.loads(Path(folder, "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


def _source(name_or_path: str, revision: str | None, subject: str) -> dict[str, Any]:
    """Options of `from_pretrained` that say what to read."""
    if not Path(name_or_path).is_dir():
        if not _HUB_NAME.fullmatch(name_or_path) or Path(name_or_path).exists():
            raise CheckpointError(f"{subject}, but there is no such folder")
        _check_hub(subject, name_or_path, revision or "main")
    elif revision is not None:
        raise CheckpointError(f"{subject}, which is a folder; revision {revision} applies only to a name on the Hub")
    # trust_remote_code is explicit, because the library would otherwise ask at the terminal
    return {"revision": revision or "main", "trust_remote_code": False}


def _check_hub(subject: str, name: str, revision: str) -> None:
    """Refuse a name on the Hub if the Hub cannot be found, and the model is not in the cache."""
    host = host_without_address()
    if host is None:
        return
    if not isinstance(try_to_load_from_cache(name, CONFIG_NAME, revision=revision), str):
        raise CheckpointError(
            f"{subject}, which is not a folder on this machine, and {host} cannot be found to look for it on the Hub: "
            "check the name of the folder, or the network"
        )
    logger.warning(f"{host} cannot be found, so {name} comes from the cache: HF_HUB_OFFLINE=1 is faster")


@contextlib.contextmanager
def explaining_failure(subject: str, name_or_path: str) -> Iterator[None]:
    """Turn every error into a [`CheckpointError`] of one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{subject}, {_why_not_loaded(name_or_path, error)}") from error


@contextlib.contextmanager
def without_panic() -> Iterator[None]:
    """Turn a panic of the tokenizers' Rust code, which is not an `Exception`, into a `RuntimeError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from error


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence the library's warnings about weights that do not fit; this module reports them."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars, and reports of heads that are left out on purpose."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with quiet_loading():
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def check_no_adapter(subject: str, name_or_path: str, source: dict[str, Any]) -> None:
    """Refuse an adapter before anything is loaded, because its configuration may name any model to download."""
    with explaining_failure(subject, name_or_path):
        if _file_if_any(name_or_path, ADAPTER_CONFIG, source) is not None:
            raise CheckpointError(
                f"{subject}, which is an adapter; merge it into its model first (merge_and_unload of peft, then "
                "save_pretrained) and give that folder"
            )


def check_weight_files(subject: str, name_or_path: str, config: PreTrainedConfig, source: dict[str, Any]) -> None:
    """Refuse quantised weights, and weights that are not safetensors."""
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(f"{subject}, which is quantised (quantization_config in config.json); use full weights")
    names = [getattr(config, "transformers_weights", None) or ""]  # replaces model.safetensors
    index = _file_if_any(name_or_path, SAFE_WEIGHTS_INDEX_NAME, source)
    if index is not None:
        names += json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
    for name in names:
        if name and not str(name).endswith(".safetensors"):
            raise CheckpointError(f"{subject}, whose weights are in {shortened(name)}; use safetensors files")


def _file_if_any(name_or_path: str, filename: str, source: dict[str, Any]) -> str | None:
    """Return the path of a file of a model, or `None` if it has none or cannot be reached."""
    return cached_file(
        name_or_path,
        filename,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{name: source[name] for name in ("revision", "subfolder") if source.get(name)},
    )


def _load_tokenizer(
    subject: str, name_or_path: str, source: dict[str, Any], *, needs_mask: bool
) -> PreTrainedTokenizerBase:
    """Load the tokenizer and check that it can be used, because some damage shows only then."""
    try:
        with without_panic():
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **source)
            vocabulary = tokenizer.get_vocab()
            if set(vocabulary) <= set(tokenizer.all_special_tokens):  # the library's default if there are no files
                raise CheckpointError(f"{subject}, which has no tokenizer, or one without tokens for residues")
            ByteTable.from_tokenizer(tokenizer)
            if needs_mask:
                ResidueVocabulary.from_tokenizer(tokenizer)
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        if str(error).startswith("Couldn't instantiate the backend tokenizer"):
            raise CheckpointError(f"{subject}, which has no files of a tokenizer") from error
        raise CheckpointError(f"{subject}, whose tokenizer cannot be used ({first_sentence(error)})") from error
    return tokenizer


def _why_not_loaded(name_or_path: str, error: Exception) -> str:
    """Why a model was not loaded, as a clause; the libraries' own messages are long and name other options."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"which is not a folder on this machine and could not be loaded from the Hub ({first_sentence(error)})"
    if not (folder / "config.json").is_file():
        inside = [path.parent for path in sorted(folder.glob("*/config.json")) if not _is_noiser(str(path.parent))]
        return "which has no config.json" + (f"; did you mean {inside[0]}?" if inside else "")
    if not list(folder.glob("*.safetensors")):
        pickled = "; convert its pickled weights first" if list(folder.glob("*.bin")) else ""
        return f"which has no model.safetensors{pickled}"
    if str(error).startswith("Unrecognized configuration class"):
        return f"which is of the kind {_model_type(name_or_path)} and no masked language model"
    return f"which could not be loaded ({first_sentence(error)})"


def first_sentence(error: Exception) -> str:
    """The first sentence of a library's message, on one line."""
    if "trust_remote_code" in str(error):
        return "it needs its own code, which is never run"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if lines[0].endswith(":"):  # a heading
        lines[0] = " ".join(lines[:2])
    if isinstance(error, KeyError):
        lines[0] = f"it lacks {lines[0]}"
    return shortened(lines[0].split(". ")[0].rstrip(".:"))


def shortened(text: object) -> str:
    """A text from a foreign file on one line, cut to a length that fits into a log."""
    return clip(" ".join(str(text).encode("utf-8", "replace").decode().split()), _LONGEST_REASON)


def _check_weights(subject: str, model: PreTrainedModel, report: dict) -> None:
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{subject}, whose weights do not fit its config.json: {name} is {shape_of(found)}, not {shape_of(wanted)}"
        )
    missing = sorted(report["missing_keys"])
    whole = model.base_model is model
    inside = [name for name in missing if whole or name.startswith(f"{model.base_model_prefix}.")]
    if inside:
        raise CheckpointError(f"{subject}, which lacks {len(inside)} of its weights, such as {inside[0]}")
    if missing:
        logger.warning(
            f"{subject}, which has no masked-language-modelling head: {len(missing)} tensors start at random"
        )


def shape_of(sizes: Iterable[int]) -> str:
    """Sizes of a tensor, as `30×16`."""
    return "×".join(map(str, sizes)) or "a number"
