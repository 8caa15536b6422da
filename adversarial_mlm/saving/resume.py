"""Resume a run: read the weights and states of a checkpoint, and refuse one that does not fit the run.

Nothing here runs code that comes with a checkpoint. Weights are safetensors and most other files are JSON. The states
of optimizer, schedule and random generators are read by PyTorch's `weights_only` unpickler, which accepts tensors and
plain values only.
"""

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from adversarial_mlm.models.loading import (
    LOADING_ERRORS,
    NOISER_FOLDER,
    STRICTLY,
    check_no_adapter,
    check_weight_files,
    first_sentence,
    quiet_loading,
    shape_of,
    shortened,
    without_panic,
)
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.utils import distributed
from adversarial_mlm.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

_STATES = ("optimizer.pt", "scheduler.pt")  # needed to resume, in addition to the weights and trainer_state.json
# `from_pretrained` with `output_loading_info`, which its declaration leaves out
_LoadWithReport = Callable[..., tuple[PreTrainedModel, dict[str, Any]]]
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def read_networks(
    checkpoint: str, encoder: torch.nn.Module, noiser: NoiserModel | None
) -> dict[str, dict[str, torch.Tensor]]:
    """The states of `encoder` and `noiser` in a checkpoint; that of an adapter is left to the stock trainer.

    Raises:
        CheckpointError: See [`read_weights`].
    """
    states = {}
    if isinstance(encoder, PreTrainedModel):
        states["encoder"] = read_weights(checkpoint, encoder)
    if noiser is not None:
        states["noiser"] = read_weights(os.path.join(checkpoint, NOISER_FOLDER), noiser)
    return states


def check_everyone_has(checkpoint: str) -> None:
    """Make sure that all processes see the same checkpoint.

    Raises:
        CheckpointError: On all processes, naming the first one that does not.
    """
    path = Path(checkpoint, TRAINER_STATE_NAME)
    contents = distributed.gather(path.read_bytes() if path.is_file() else b"")
    others = [rank for rank, content in enumerate(contents) if content != contents[0]]
    if others:
        raise CheckpointError(
            f"the checkpoint {checkpoint} is missing or different on process {others[0]}: all machines must see the "
            "same one, in a shared folder or as copies"
        )


def warn_of_other_processes(checkpoint: str, processes: int) -> None:
    """Warn if a checkpoint was written by another number of processes than this run has."""
    if not checkpoint_manifest.has_manifest(checkpoint):
        return
    written_by = checkpoint_manifest.read(checkpoint)["processes"]
    if written_by != processes:
        logger.warning(
            f"the checkpoint {checkpoint} was written by {written_by} processes and this run has {processes}: dropout "
            "differs from here on, and the batches are the same only if batch × accumulation × processes is the same"
        )


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
                f"{said} was made with another optimizer: its state has {shortened(more[0])} and no {lacking[0]}, and "
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
        check_no_adapter(said, folder, {})
        check_weight_files(said, folder, model.config, {})
        with quiet_loading():
            load = cast(_LoadWithReport, type(model).from_pretrained)
            loaded, report = load(folder, config=model.config, dtype=model.dtype, local_files_only=True, **STRICTLY)
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{said} has weights that could not be loaded ({first_sentence(error)})") from error
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{said} does not fit this run's {kind}: {name} is {shape_of(found)} in it and {shape_of(wanted)} in "
            "this run"
        )
    for what, names in (("it has no tensor", report["missing_keys"]), ("it has also", report["unexpected_keys"])):
        if names:
            raise CheckpointError(f"{said} does not fit this run's {kind}: {what} {min(names)}")
    return loaded.state_dict()


def _check_vocabulary(said: str, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not os.path.isfile(os.path.join(folder, "tokenizer_config.json")):
        return  # written by a trainer that was given none
    try:
        with without_panic():
            theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{said} has a tokenizer that could not be loaded ({first_sentence(error)})") from error
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
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{said} has a damaged {path.name} ({first_sentence(error)})") from error
