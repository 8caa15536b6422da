"""Reading what was saved: a model to start from, a run to continue.

Nothing here runs code that comes with a checkpoint. Weights are safetensors, the rest is JSON, and the state of an
optimizer is read by PyTorch's `weights_only` unpickler, which knows tensors and plain values alone.
"""

import contextlib
import inspect
import json
import os
import pickle
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
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file, find_adapter_config_file
from transformers.utils import logging as transformers_logging

from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.models.tokenization_protein import ByteTable, ResidueVocabulary

logger = transformers_logging.get_logger(__name__)

NOISER_FOLDER = "noiser"

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_STATES = ("optimizer.pt", "scheduler.pt")  # what a run needs to go on, beside the weights and trainer_state.json
# safetensors alone, and a report of what does not fit in place of a message on the console
_STRICTLY = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
# Foreign and damaged files make the libraries raise whatever comes: a bare Exception from the tokenizers, an
# ImportError for a quantiser, a validator's error of its own. There is no list of them to keep.
_LOADING_ERRORS = Exception
_LONGEST_REASON = 300  # characters of a library's message; some quote a whole file
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


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
            there are no safetensors, if it is an adapter or quantised, if its tokenizer cannot be used for proteins,
            or if it needs code of its own.
    """
    said = f"model_name_or_path is {name_or_path}"
    where = _where(name_or_path, revision, said)
    _check_no_adapter(said, name_or_path, where)
    with _said_of(said, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **where)
        _check_files(said, name_or_path, config, where)
        with _quietly():
            model, report = AutoModelForMaskedLM.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, **_STRICTLY, **where
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
    _check_no_adapter(said, name_or_path, where)
    with _said_of(said, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **where)
        if hasattr(config, "encoder_config"):
            raise CheckpointError(f"{said}, which has an encoder in it and is none itself ({config.model_type})")
        if from_scratch:
            model, report = new_backbone(config), None
        else:
            _check_files(said, name_or_path, config, where)
            options = _without_pooler(config)
            with _quietly():
                model, report = AutoModel.from_pretrained(
                    name_or_path, config=config, dtype=torch.float32, **options, **_STRICTLY, **where
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
    _check_no_adapter(said, name_or_path, where)
    with _said_of(said, path):
        config = NoiserModel.config_class.from_pretrained(name_or_path, **where)
        _check_files(said, name_or_path, config, where)
        with _quietly():
            noiser, report = NoiserModel.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, **_STRICTLY, **where
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
def _said_of(said: str, name_or_path: str) -> Iterator[None]:
    """Whatever is raised in here becomes one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said}, {_why_not_loaded(name_or_path, error)}") from error


@contextlib.contextmanager
def _without_panic() -> Iterator[None]:
    """The tokenizers' Rust code answers some damaged files with a panic, which is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's warnings about weights that do not fit; what matters of them is said here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _check_no_adapter(said: str, name_or_path: str, where: dict) -> None:
    """Refuse an adapter before anything is loaded, since its configuration may name any other model to be fetched."""
    with _said_of(said, name_or_path):
        if find_adapter_config_file(name_or_path, **_place(where)) is not None:
            raise CheckpointError(
                f"{said}, which is an adapter; merge it into its model first: give the folder that save_pretrained "
                "writes after peft's merge_and_unload"
            )


def _check_files(said: str, name_or_path: str, config: PreTrainedConfig, where: dict) -> None:
    """Refuse quantised weights, and weights in files that are no safetensors."""
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(f"{said}, which is quantised (quantization_config in its config.json)")
    names = [getattr(config, "transformers_weights", None) or ""]  # of a file to take in place of model.safetensors
    index = cached_file(
        name_or_path,
        SAFE_WEIGHTS_INDEX_NAME,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **_place(where),
    )
    if index is not None:
        names += json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
    for name in names:
        if name and not str(name).endswith(".safetensors"):
            raise CheckpointError(f"{said}, whose weights are said to be in {_plain(name)}, which is no safetensors")


def _place(where: dict) -> dict:
    return {name: where[name] for name in ("revision", "subfolder") if where.get(name)}


def _load_tokenizer(said: str, name_or_path: str, where: dict, *, needs_mask: bool) -> PreTrainedTokenizerBase:
    """The tokenizer, after a look at whether it can be used: many a damage shows only there."""
    try:
        with _without_panic():
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **where)
            vocabulary = tokenizer.get_vocab()
            if set(vocabulary) <= set(tokenizer.all_special_tokens):  # what is made up where there are no files
                raise CheckpointError(f"{said}, which has no tokenizer, or one without any token for a residue")
            ByteTable.from_tokenizer(tokenizer)
            if needs_mask:
                ResidueVocabulary.from_tokenizer(tokenizer)
    except CheckpointError:
        raise
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said}, whose tokenizer cannot be used ({_first_sentence(error)})") from error
    return tokenizer


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
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if lines[0].endswith(":"):  # a title
        lines[0] = " ".join(lines[:2])
    if isinstance(error, KeyError):
        lines[0] = f"it lacks {lines[0]}"
    return _plain(lines[0].split(". ")[0].rstrip(".:"))


def _plain(text) -> str:
    """A text out of a foreign file, short and on one line, that can be written to any log."""
    text = " ".join(str(text).encode("utf-8", "replace").decode().split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


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


def check_resumable(
    folder: str,
    noiser: NoiserModel | None,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer | None = None,
    has_scaler: bool | None = None,
) -> None:
    """Make sure that a checkpoint has what a run needs to go on, beside the weights (see [`read_weights`]).

    Args:
        folder (`str`): The checkpoint.
        noiser ([`NoiserModel`], *optional*): Of this run.
        tokenizer (`PreTrainedTokenizerBase`): Of this run.
        optimizer (`torch.optim.Optimizer`, *optional*): Of this run, as it is before its first step. Without it, the
            saved state is not compared with it.
        has_scaler (`bool`, *optional*): Whether this run scales its loss, as with `fp16`. Without it, that is not
            asked.

    Raises:
        CheckpointError: If a file is missing or damaged, if the vocabulary is another one, if one of checkpoint and
            run has a noiser and the other has none, or if the optimizer or its parameters are others.
    """
    said = f"the checkpoint {folder}"
    _check_vocabulary(said, folder, tokenizer)
    has_noiser = os.path.isdir(os.path.join(folder, NOISER_FOLDER))
    if noiser is not None and not has_noiser:
        raise CheckpointError(f"{said} has no {NOISER_FOLDER}/ folder, and this run has a noiser")
    if noiser is None and has_noiser:
        raise CheckpointError(f"{said} has a {NOISER_FOLDER}/ folder, and this run has no noiser")
    try:
        state = json.loads(Path(folder, "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{said} has no trainer_state.json that can be read") from error
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        raise CheckpointError(f"{said} has a trainer_state.json without a global_step")
    optimizer_state, _ = (_read_state(said, Path(folder, name)) for name in _STATES)
    if optimizer is not None:
        _check_optimizer(said, optimizer_state, optimizer)
    for path in sorted(Path(folder).glob("rng_state*.pth")):
        _read_state(said, path)
    scaler = Path(folder, "scaler.pt")
    if scaler.exists():
        _check_scaler(said, _read_state(said, scaler), has_scaler)


def _check_optimizer(said: str, state: object, optimizer: torch.optim.Optimizer) -> None:
    """Compare groups of parameters, how many are in each, and the options by which optimizers are told apart."""
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if not isinstance(groups, list) or not all(
        isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups
    ):
        raise CheckpointError(f"{said} has an optimizer.pt that is not the state of an optimizer")
    theirs, ours = ([len(group["params"]) for group in some] for some in (groups, optimizer.param_groups))
    if theirs != ours:
        raise CheckpointError(
            f"{said} was made with other trained parameters: the groups of its optimizer hold {_listed(theirs)} "
            f"tensors, and in this run {_listed(ours)}; trained_layers and the noiser must be the same"
        )
    for saved, group in zip(groups, optimizer.param_groups, strict=True):
        # on both sides: another version of PyTorch has a few more options of the same optimizer, which it fills in
        lacking, more = sorted(group.keys() - saved.keys()), sorted(saved.keys() - group.keys() - {"initial_lr"})
        if lacking and more:
            raise CheckpointError(
                f"{said} was made with another optimizer: its state has {_plain(more[0])} and no {lacking[0]}, and "
                f"this run's {type(optimizer).__name__} has {lacking[0]}; optim must be the same"
            )


def _listed(counts: list[int]) -> str:
    return " + ".join(map(str, counts)) or "no"


def _check_scaler(said: str, state: object, has_scaler: bool | None) -> None:
    if not isinstance(state, dict) or not state.keys() >= _SCALER:
        raise CheckpointError(f"{said} has a scaler.pt that is not the state of a scaler")
    if has_scaler is False:
        raise CheckpointError(
            f"{said} has a scaler.pt, as a run with fp16 writes it, and this run does not scale its loss"
        )


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
        _check_no_adapter(said, folder, {})
        _check_files(said, folder, model.config, {})
        with _quietly():
            loaded, report = type(model).from_pretrained(
                folder, config=model.config, dtype=model.dtype, local_files_only=True, **_STRICTLY
            )
    except CheckpointError:
        raise
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
        with _without_panic():
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


def _read_state(said: str, path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(
            f"{said} has no {path.name}, without which a run cannot go on; to start anew from its weights, give it as "
            "model_name_or_path"
        )
    try:
        with safe_globals():  # NumPy's arrays, of which the state of its generator is made
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{said} has {'an' if path.name[0] in 'aeio' else 'a'} {path.name} that holds more than tensors and plain "
            "values, or is damaged; it was not loaded"
        ) from error
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{said} has a damaged {path.name} ({_first_sentence(error)})") from error
