"""Resume a run: read the weights and states of a checkpoint, and refuse one that does not fit the run.

No code of a checkpoint is ever run. Weights are safetensors, and most other files are JSON. PyTorch's `weights_only`
unpickler reads the states of optimizer, schedule and random generators. It accepts tensors and plain values only.

[`options_record`] compares the options of checkpoint and run.
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

from adversarial_mlm.models import adapters
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
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

_STATES = ("optimizer.pt", "scheduler.pt")  # needed to resume, in addition to the weights and trainer_state.json
# `from_pretrained` with `output_loading_info`, which its declaration omits
_LoadWithReport = Callable[..., tuple[PreTrainedModel, dict[str, Any]]]
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def read_networks(
    checkpoint: str, encoder: torch.nn.Module, noiser: NoiserModel | None
) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights of `encoder` and `noiser` in a checkpoint, or of the encoder's adapter (`peft.PeftModel`).

    Raises:
        CheckpointError: See [`read_weights`].
    """
    states = {}
    if isinstance(encoder, PreTrainedModel):
        states["encoder"] = read_weights(checkpoint, encoder)
    elif adapters.is_adapted(encoder):
        states["adapter"] = adapters.read_weights(f"the checkpoint {checkpoint}, an adapter", checkpoint)
    if noiser is not None:
        states["noiser"] = read_weights(os.path.join(checkpoint, NOISER_FOLDER), noiser)
    return states


def check_everyone_has(checkpoint: str) -> None:
    """Check that all processes see the same checkpoint.

    Raises:
        CheckpointError: On all processes. It names the first process that sees another checkpoint or none.
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
            f"the checkpoint {checkpoint} was written by {count(written_by, 'process', 'processes')} and this "
            f"run has {processes}: dropout "
            "differs from now on, and the batches only stay the same if batch × accumulation × processes is the same"
        )


def check_resumable(
    folder: str,
    noiser: NoiserModel | None,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer | None = None,
    has_scaler: bool | None = None,
) -> int:
    """Check that a run can resume from a checkpoint, except for its weights (see [`read_weights`]).

    Args:
        folder (`str`): The checkpoint.
        noiser ([`NoiserModel`], *optional*): The noiser of this run.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of this run.
        optimizer (`torch.optim.Optimizer`, *optional*): The optimizer of this run, before its first step. Without it,
            the saved state is not compared.
        has_scaler (`bool`, *optional*): Whether this run scales its loss, as with `fp16`. Without it, this is not
            checked.

    Returns:
        `int`: Encoder updates of the checkpoint.

    Raises:
        CheckpointError: If a file is missing or damaged, if the vocabulary differs, if only one of checkpoint and run
            has a noiser, or if the optimizer or its parameters differ.
    """
    subject = f"the checkpoint {folder}"
    _check_vocabulary(subject, folder, tokenizer)
    has_noiser = os.path.isdir(os.path.join(folder, NOISER_FOLDER))
    if noiser is not None and not has_noiser:
        raise CheckpointError(f"{subject} has no {NOISER_FOLDER}/ folder, and this run has a noiser")
    if noiser is None and has_noiser:
        raise CheckpointError(f"{subject} has a {NOISER_FOLDER}/ folder, and this run has no noiser")
    try:
        state = json.loads(Path(folder, "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{subject} has no trainer_state.json that can be read") from error
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        raise CheckpointError(f"{subject} has a trainer_state.json without a global_step")
    optimizer_state, _ = (_read_state(subject, Path(folder, name)) for name in _STATES)
    if optimizer is not None:
        _check_optimizer(subject, optimizer_state, optimizer)
    for path in sorted(Path(folder).glob("rng_state*.pth")):
        _read_state(subject, path)
    scaler = Path(folder, "scaler.pt")
    if scaler.exists():
        _check_scaler(subject, _read_state(subject, scaler), has_scaler)
    return state["global_step"]


def _check_optimizer(subject: str, state: object, optimizer: torch.optim.Optimizer) -> None:
    """Compare the numbers of parameters in each group, and the hyperparameters by which optimizers differ."""
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if not isinstance(groups, list) or not all(
        isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups
    ):
        raise CheckpointError(f"{subject} has an optimizer.pt that is not the state of an optimizer")
    theirs, ours = ([len(group["params"]) for group in some] for some in (groups, optimizer.param_groups))
    if theirs != ours:
        raise CheckpointError(
            f"{subject} was made with other trained parameters: the groups of its optimizer have {_listed(theirs)} "
            f"tensors, and those of this run have {_listed(ours)}; use the same trained_layers and the same noiser"
        )
    for saved, group in zip(groups, optimizer.param_groups, strict=True):
        # missing on one side only is no error: a newer PyTorch adds hyperparameters, with defaults
        lacking, more = sorted(group.keys() - saved.keys()), sorted(saved.keys() - group.keys() - {"initial_lr"})
        if lacking and more:
            raise CheckpointError(
                f"{subject} was made with another optimizer: its state has {shortened(more[0])} but no {lacking[0]}, "
                f"which this run's {type(optimizer).__name__} has; use the same optim"
            )


def _listed(counts: list[int]) -> str:
    return " + ".join(map(str, counts)) or "no"


def _check_scaler(subject: str, state: object, has_scaler: bool | None) -> None:
    if not isinstance(state, dict) or not state.keys() >= _SCALER:
        raise CheckpointError(f"{subject} has a scaler.pt that is not the state of a scaler")
    if has_scaler is False:
        raise CheckpointError(
            f"{subject} has a scaler.pt, which only a run with fp16 writes, but this run has no fp16: set fp16"
        )


def read_weights(folder: str, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights in a folder, with the names and the precision that a model has now.

    The stock `Trainer` uses `load_state_dict`, which ignores tensors with other names. `save_pretrained` may write
    such names: it saves an ESM that was loaded from an older checkpoint with the names of that checkpoint.

    Args:
        folder (`str`): A folder that `save_pretrained` wrote.
        model (`PreTrainedModel`): The model whose weights are read.

    Returns:
        `dict[str, torch.Tensor]`: A state for `model.load_state_dict`.

    Raises:
        CheckpointError: If there are no weights, if they are damaged, or if the model has other tensors or shapes.
    """
    subject = f"the checkpoint {folder}"
    kind = type(model).__name__
    if not list(Path(folder).glob("*.safetensors")):
        raise CheckpointError(f"{subject} has no model.safetensors")
    try:
        check_no_adapter(subject, folder, {})
        check_weight_files(subject, folder, model.config, {})
        with quiet_loading():
            load = cast(_LoadWithReport, type(model).from_pretrained)
            loaded, report = load(folder, config=model.config, dtype=model.dtype, local_files_only=True, **STRICTLY)
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{subject} has weights that could not be loaded ({first_sentence(error)})") from error
    if report["mismatched_keys"]:
        name, found, wanted = min(report["mismatched_keys"])
        raise CheckpointError(
            f"{subject} does not fit this run's {kind}: {name} is {shape_of(found)} in the checkpoint and "
            f"{shape_of(wanted)} in this run"
        )
    for verb, names in (("lacks", report["missing_keys"]), ("also has", report["unexpected_keys"])):
        if names:
            raise CheckpointError(f"{subject} does not fit this run's {kind}: it {verb} the tensor {min(names)}")
    return loaded.state_dict()


def _check_vocabulary(subject: str, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not os.path.isfile(os.path.join(folder, "tokenizer_config.json")):
        return  # the trainer had no tokenizer
    try:
        with without_panic():
            theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except LOADING_ERRORS as error:
        reason = first_sentence(error)
        raise CheckpointError(f"{subject} has a tokenizer that could not be loaded ({reason})") from error
    ours = tokenizer.get_vocab()
    if theirs != ours:
        token = min(token for token in {**theirs, **ours} if theirs.get(token) != ours.get(token))
        raise CheckpointError(
            f"{subject} was made with another vocabulary: the token {token} has the id {theirs.get(token)} in the "
            f"checkpoint and {ours.get(token)} in this run"
        )


def _read_state(subject: str, path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(
            f"{subject} has no {path.name}, which a run needs to resume; start a new run from its weights "
            f"(model_name_or_path: {path.parent})"
        )
    try:
        with safe_globals():  # the state of NumPy's generator consists of its arrays
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{subject} has {'an' if path.name[0] in 'aeio' else 'a'} {path.name} that contains more than tensors and "
            "plain values, or is damaged; it was not loaded"
        ) from error
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{subject} has a damaged {path.name} ({first_sentence(error)})") from error
