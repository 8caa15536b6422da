"""Load an encoder or a noiser from a folder or the Hub.

Nothing here runs code that comes with a checkpoint. Weights are safetensors, the rest is JSON.
"""

import contextlib
import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
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
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file, find_adapter_config_file
from transformers.utils import logging as transformers_logging

from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.models.tokenization_protein import ByteTable, ResidueVocabulary
from adversarial_mlm.utils.errors import CheckpointError, clip

logger = transformers_logging.get_logger(__name__)

NOISER_FOLDER = "noiser"

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# safetensors alone, and a report of what does not fit in place of a message on the console
STRICTLY = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
# Foreign and damaged files make the libraries raise whatever comes: a bare Exception from the tokenizers, an
# ImportError for a quantiser, a validator's error of its own. There is no list of them to keep.
LOADING_ERRORS = Exception
_LONGEST_REASON = 300  # characters of a library's message; some quote a whole file


def load_encoder(
    name_or_path: str, revision: str | None = None, *, needs_head: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked language model and its tokenizer, in float32.

    Args:
        name_or_path (`str`): A folder, or a model's name on the Hub.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        needs_head (`bool`, *optional*, defaults to `False`): Whether a missing head is refused, too.

    Returns:
        `PreTrainedModel` (as `AutoModelForMaskedLM` makes it) and `PreTrainedTokenizerBase`.

    Raises:
        CheckpointError: If there is no such model, if it is no encoder for masked language modelling, if its files
            are damaged, do not fit its configuration or lack weights of the encoder (a missing head is only said), if
            there are no safetensors, if it is an adapter or quantised, if its tokenizer cannot be used for proteins,
            or if it needs code of its own.
    """
    said = f"model_name_or_path is {name_or_path}"
    where = _where(name_or_path, revision, said)
    check_no_adapter(said, name_or_path, where)
    with explaining_failure(said, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **where)
        check_weight_files(said, name_or_path, config, where)
        with quiet_loading():
            model, report = AutoModelForMaskedLM.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, **STRICTLY, **where
            )
    _check_weights(said, model, report)
    if needs_head and report["missing_keys"]:
        raise CheckpointError(f"{said}, which has no masked-language-modelling head")
    _check_no_decoder(said, model)
    return model, _load_tokenizer(said, name_or_path, where, needs_mask=True)


def load_backbone(
    name_or_path: str, revision: str | None = None, *, from_scratch: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder without any head, and its tokenizer, in float32.

    Args:
        name_or_path (`str`): A folder, or a model's name on the Hub; any model that `AutoModel` knows.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        from_scratch (`bool`, *optional*, defaults to `False`): Take the configuration alone, and fresh weights.

    Returns:
        `PreTrainedModel` (as `AutoModel` makes it, without a pooler) and `PreTrainedTokenizerBase`.

    Raises:
        CheckpointError: As [`load_encoder`], and if the model is one with a head for a task.
    """
    said = f"model_name_or_path is {name_or_path}"
    where = _where(name_or_path, revision, said)
    check_no_adapter(said, name_or_path, where)
    with explaining_failure(said, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **where)
        if hasattr(config, "encoder_config"):
            raise CheckpointError(f"{said}, which has an encoder in it and is none itself ({config.model_type})")
        if from_scratch:
            model, report = new_backbone(config), None
        else:
            check_weight_files(said, name_or_path, config, where)
            options = _without_pooler(config)
            with quiet_loading():
                model, report = AutoModel.from_pretrained(
                    name_or_path, config=config, dtype=torch.float32, **options, **STRICTLY, **where
                )
    if report is not None:
        _check_weights(said, model, report)
    _check_no_decoder(said, model)
    return model, _load_tokenizer(said, name_or_path, where, needs_mask=False)


def new_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A fresh encoder without any head or pooler, in PyTorch's default precision."""
    return AutoModel.from_config(config, dtype=torch.get_default_dtype(), **_without_pooler(config))


def _without_pooler(config: PreTrainedConfig) -> dict:
    """The option that leaves out a pooler, which masked-language modelling does not train; not all models have it."""
    model_class = MODEL_MAPPING[type(config)]
    if isinstance(model_class, tuple) or "add_pooling_layer" not in inspect.signature(model_class).parameters:
        return {}
    return {"add_pooling_layer": False}


def _check_no_decoder(said: str, model: PreTrainedModel) -> None:
    if model.config.is_encoder_decoder:
        raise CheckpointError(f"{said}, a {type(model).__name__}, which has a decoder; an encoder alone is needed")


def load_noiser(name_or_path: str, revision: str | None = None) -> NoiserModel:
    """Load a trained noiser: from a folder or Hub name that is a noiser, or that has one in `noiser/`.

    Args:
        name_or_path (`str`): A folder, or a name on the Hub (there the noiser is in `noiser/`).
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        CheckpointError: If there is none, or if its files are damaged or do not fit its configuration.
    """
    said = f"noiser_name_or_path is {name_or_path}"
    where = _where(name_or_path, revision, said)
    is_noiser = Path(name_or_path).is_dir() and _model_type(name_or_path) == NoiserModel.config_class.model_type
    subfolder = "" if is_noiser else NOISER_FOLDER
    path = os.path.join(name_or_path, subfolder) if subfolder else name_or_path
    if Path(name_or_path).is_dir() and not Path(path).is_dir():
        raise CheckpointError(f"{said}, which is neither a noiser nor has one in {NOISER_FOLDER}/")
    where["subfolder"] = subfolder
    check_no_adapter(said, name_or_path, where)
    with explaining_failure(said, path):
        config = NoiserModel.config_class.from_pretrained(name_or_path, **where)
        check_weight_files(said, name_or_path, config, where)
        with quiet_loading():
            noiser, report = NoiserModel.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, **STRICTLY, **where
            )
    _check_weights(said, noiser, report)
    return noiser


def _model_type(folder: str) -> str | None:
    try:
        return json.loads(Path(folder, "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


def _where(name_or_path: str, revision: str | None, said: str) -> dict:
    if not Path(name_or_path).is_dir():
        if not _HUB_NAME.fullmatch(name_or_path) or Path(name_or_path).exists():
            raise CheckpointError(f"{said}, but there is no such folder")
    elif revision is not None:
        raise CheckpointError(f"{said}, which is a folder, and a revision, {revision}, belongs to a name on the Hub")
    # said openly: where it is left open the library asks at the terminal
    return {"revision": revision or "main", "trust_remote_code": False}


@contextlib.contextmanager
def explaining_failure(said: str, name_or_path: str) -> Iterator[None]:
    """Whatever is raised in here becomes one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{said}, {_why_not_loaded(name_or_path, error)}") from error


@contextlib.contextmanager
def without_panic() -> Iterator[None]:
    """The tokenizers' Rust code answers some damaged files with a panic, which is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from error


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the library's warnings about weights that do not fit; what matters of them is said here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def check_no_adapter(said: str, name_or_path: str, where: dict) -> None:
    """Refuse an adapter before anything is loaded, since its configuration may name any other model to be fetched."""
    with explaining_failure(said, name_or_path):
        if find_adapter_config_file(name_or_path, **_subfolder_and_revision(where)) is not None:
            raise CheckpointError(
                f"{said}, which is an adapter; merge it into its model first: give the folder that save_pretrained "
                "writes after peft's merge_and_unload"
            )


def check_weight_files(said: str, name_or_path: str, config: PreTrainedConfig, where: dict) -> None:
    """Refuse quantised weights, and weights in files that are no safetensors."""
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(f"{said}, which is quantised (quantization_config in its config.json)")
    names = [getattr(config, "transformers_weights", None) or ""]  # of a file to take in place of model.safetensors
    index = cached_file(
        name_or_path,
        SAFE_WEIGHTS_INDEX_NAME,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **_subfolder_and_revision(where),
    )
    if index is not None:
        names += json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
    for name in names:
        if name and not str(name).endswith(".safetensors"):
            raise CheckpointError(f"{said}, whose weights are in {shortened(name)}, which is not a safetensors file")


def _subfolder_and_revision(where: dict) -> dict:
    return {name: where[name] for name in ("revision", "subfolder") if where.get(name)}


def _load_tokenizer(said: str, name_or_path: str, where: dict, *, needs_mask: bool) -> PreTrainedTokenizerBase:
    """The tokenizer, after a look at whether it can be used: many a damage shows only there."""
    try:
        with without_panic():
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **where)
            vocabulary = tokenizer.get_vocab()
            if set(vocabulary) <= set(tokenizer.all_special_tokens):  # what is made up where there are no files
                raise CheckpointError(f"{said}, which has no tokenizer, or one without any token for a residue")
            ByteTable.from_tokenizer(tokenizer)
            if needs_mask:
                ResidueVocabulary.from_tokenizer(tokenizer)
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{said}, whose tokenizer cannot be used ({first_sentence(error)})") from error
    return tokenizer


def _why_not_loaded(name_or_path: str, error: Exception) -> str:
    """A clause; the libraries' messages are long and speak of their own arguments."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"which is no folder here, and could not be loaded from the Hub ({first_sentence(error)})"
    if not (folder / "config.json").is_file():
        return "but there is no config.json in it"
    if not list(folder.glob("*.safetensors")):
        pickled = "; convert its pickled weights first" if list(folder.glob("*.bin")) else ""
        return f"but there is no model.safetensors in it{pickled}"
    return f"which could not be loaded ({first_sentence(error)})"


def first_sentence(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if lines[0].endswith(":"):  # a title
        lines[0] = " ".join(lines[:2])
    if isinstance(error, KeyError):
        lines[0] = f"it lacks {lines[0]}"
    return shortened(lines[0].split(". ")[0].rstrip(".:"))


def shortened(text) -> str:
    """A text out of a foreign file, short and on one line, that can be written to any log."""
    return clip(" ".join(str(text).encode("utf-8", "replace").decode().split()), _LONGEST_REASON)


def _check_weights(said: str, model: PreTrainedModel, report: dict) -> None:
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{said}, whose weights do not fit its config.json: {name} is {shape_of(found)} and not {shape_of(wanted)}"
        )
    missing = sorted(report["missing_keys"])
    whole = model.base_model is model
    inside = [name for name in missing if whole or name.startswith(f"{model.base_model_prefix}.")]
    if inside:
        raise CheckpointError(f"{said}, which lacks {len(inside)} of its tensors, such as {inside[0]}")
    if missing:
        logger.warning(f"{said}, which has no masked-language-modelling head: {len(missing)} tensors start at random")


def shape_of(sizes) -> str:
    return "×".join(map(str, sizes)) or "a number"
