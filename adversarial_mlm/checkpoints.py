"""Reading what was saved: a model to start from, a run to continue.

Nothing here runs code that comes with a checkpoint. Weights are safetensors, the rest is JSON, and the state of an
optimizer is read by PyTorch's `weights_only` unpickler, which knows tensors and plain values alone.
"""

import inspect
import json
import os
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
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
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import logging as transformers_logging

from .modeling_noiser import NoiserModel

logger = transformers_logging.get_logger(__name__)

NOISER_FOLDER = "noiser"

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_STATES = ("optimizer.pt", "scheduler.pt")  # what a run needs to go on, beside the weights and trainer_state.json
# safetensors alone, and a report of what does not fit in place of a message on the console
_STRICTLY = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
# whatever foreign or damaged files make the libraries raise
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as asked; the message is one sentence that names it."""


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
            there are no safetensors, or if it needs code of its own.
    """
    said = f"model_name_or_path is {name_or_path}"
    where = _where(name_or_path, revision, said)
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(name_or_path, dtype=torch.float32, **_STRICTLY, **where)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **where)
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said}, {_why_not_loaded(name_or_path, error)}") from error
    _check_weights(said, model, report)
    if needs_head and report["missing_keys"]:
        raise CheckpointError(f"{said}, which has no masked-language-modelling head")
    _check_no_decoder(said, model)
    return model, tokenizer


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
    try:
        config = AutoConfig.from_pretrained(name_or_path, **where)
        if hasattr(config, "encoder_config"):
            raise CheckpointError(f"{said}, which has an encoder in it and is none itself ({config.model_type})")
        if from_scratch:
            model, report = new_backbone(config), None
        else:
            model, report = AutoModel.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, **_without_pooler(config), **_STRICTLY, **where
            )
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **where)
    except CheckpointError:
        raise
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said}, {_why_not_loaded(name_or_path, error)}") from error
    if report is not None:
        _check_weights(said, model, report)
    _check_no_decoder(said, model)
    return model, tokenizer


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
    try:
        noiser, report = NoiserModel.from_pretrained(
            name_or_path, subfolder=subfolder, dtype=torch.float32, **_STRICTLY, **where
        )
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said}, {_why_not_loaded(path, error)}") from error
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


def _why_not_loaded(name_or_path: str, error: Exception) -> str:
    """A clause; the libraries' messages are long and speak of their own arguments."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"which is no folder here, and could not be loaded from the Hub ({_first_sentence(error)})"
    if not (folder / "config.json").is_file():
        return "but there is no config.json in it"
    if not list(folder.glob("*.safetensors")):
        pickled = "; convert its pickled weights first" if list(folder.glob("*.bin")) else ""
        return f"but there is no model.safetensors in it{pickled}"
    return f"which could not be loaded ({_first_sentence(error)})"


def _first_sentence(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run"
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(". ")[0].rstrip(".:")


def _check_weights(said: str, model: PreTrainedModel, report: dict) -> None:
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{said}, whose weights do not fit its config.json: {name} is {_shape(found)} and not {_shape(wanted)}"
        )
    missing = sorted(report["missing_keys"])
    whole = model.base_model is model
    inside = [name for name in missing if whole or name.startswith(f"{model.base_model_prefix}.")]
    if inside:
        raise CheckpointError(f"{said}, which lacks {len(inside)} of its tensors, such as {inside[0]}")
    if missing:
        logger.warning(f"{said}, which has no masked-language-modelling head: {len(missing)} tensors start at random")


def _shape(sizes) -> str:
    return "×".join(map(str, sizes)) or "a number"


def check_resumable(folder: str, noiser: NoiserModel | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that a checkpoint has what a run needs to go on, beside the weights (see [`read_weights`]).

    Args:
        folder (`str`): The checkpoint.
        noiser ([`NoiserModel`], *optional*): Of this run.
        tokenizer (`PreTrainedTokenizerBase`): Of this run.

    Raises:
        CheckpointError: If a file is missing or damaged, or if the vocabulary is another one.
    """
    said = f"the checkpoint {folder}"
    _check_vocabulary(said, folder, tokenizer)
    if noiser is not None and not os.path.isdir(os.path.join(folder, NOISER_FOLDER)):
        raise CheckpointError(f"{said} has no {NOISER_FOLDER}/ folder, and this run has a noiser")
    try:
        state = json.loads(Path(folder, "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{said} has no trainer_state.json that can be read") from error
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        raise CheckpointError(f"{said} has a trainer_state.json without a global_step")
    for path in (*(Path(folder, name) for name in _STATES), *sorted(Path(folder).glob("rng_state*.pth"))):
        _check_state(said, path)


def read_weights(folder: str, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights in a folder, under the names and in the precision that a model has now.

    What `Trainer` does by itself is not enough: `save_pretrained` may write a model that was loaded from an older
    checkpoint under that one's names (an ESM does), and `load_state_dict` would pass them over.

    Args:
        folder (`str`): As `save_pretrained` wrote it.
        model (`PreTrainedModel`): Whose weights they should be.

    Returns:
        `dict[str, torch.Tensor]`: A state that `model.load_state_dict` takes.

    Raises:
        CheckpointError: If there are none, if they are damaged, or if the model has other tensors or shapes.
    """
    said = f"the checkpoint {folder}"
    kind = type(model).__name__
    if not list(Path(folder).glob("*.safetensors")):
        raise CheckpointError(f"{said} has no model.safetensors")
    try:
        loaded, report = type(model).from_pretrained(
            folder, config=model.config, dtype=model.dtype, local_files_only=True, **_STRICTLY
        )
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said} has weights that could not be loaded ({_first_sentence(error)})") from error
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{said} does not fit this run's {kind}: {name} is {_shape(found)} in it and {_shape(wanted)} in this run"
        )
    for what, names in (("it has no tensor", report["missing_keys"]), ("it has also", report["unexpected_keys"])):
        if names:
            raise CheckpointError(f"{said} does not fit this run's {kind}: {what} {min(names)}")
    return loaded.state_dict()


def _check_vocabulary(said: str, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not os.path.isfile(os.path.join(folder, "tokenizer_config.json")):
        return  # written by a trainer that was given none
    try:
        theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said} has a tokenizer that could not be loaded ({_first_sentence(error)})") from error
    ours = tokenizer.get_vocab()
    if theirs != ours:
        token = min(token for token in {**theirs, **ours} if theirs.get(token) != ours.get(token))
        raise CheckpointError(
            f"{said} was made with another vocabulary: the token {token} has the id {theirs.get(token)} in it and "
            f"{ours.get(token)} in this run"
        )


def _check_state(said: str, path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"{said} has no {path.name}, without which a run cannot go on; to start anew from its weights, give it as "
            "model_name_or_path"
        )
    try:
        with safe_globals():  # NumPy's arrays, of which the state of its generator is made
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{said} has a {path.name} that holds more than tensors and plain values, or is damaged; it was not loaded"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{said} has a damaged {path.name} ({_first_sentence(error)})") from error
