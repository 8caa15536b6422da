"""What a checkpoint holds: networks, tokenizer, arguments, the trainer's state, and the random generators' states."""

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from adversarial_mlm.models.adapters import merged
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.models.tokenization_protein import save_tokenizer
from adversarial_mlm.saving.run_files import ARGUMENTS_FILE, NOISER_FOLDER
from adversarial_mlm.utils import atomic_files, distributed


def write_networks(
    folder: str,
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    noiser: NoiserModel | None,
    arguments: Mapping[str, Any],
    max_length: int | None = None,
) -> None:
    """Write encoder and tokenizer at the root, the noiser in `noiser/`, and the arguments as JSON.

    Args:
        folder (`str`): Exists.
        encoder (`PreTrainedModel` or `PeftModel`): The encoder.
        tokenizer (`PreTrainedTokenizerBase`): The encoder's.
        noiser ([`NoiserModel`], *optional*): Where there is one.
        arguments (`Mapping[str, Any]`): Of the run, without tokens.
        max_length (`int`, *optional*): Most tokens of a row in training, which the tokenizer keeps as its
            `model_max_length`.
    """
    encoder.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length)
    if noiser is not None:
        noiser.save_pretrained(os.path.join(folder, NOISER_FOLDER))
    with open(os.path.join(folder, ARGUMENTS_FILE), "w", encoding="utf-8") as file:
        json.dump(arguments, file, indent=2, sort_keys=True, default=str)


def write_merged(folder: str, adapted: Any, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> None:
    """Write an encoder with its adapter merged into it as a model that needs no `peft`, and the tokenizer.

    Args:
        folder (`str`): Need not exist.
        adapted (`PeftModel`): The encoder, which stays as it is.
        tokenizer (`PreTrainedTokenizerBase`): The encoder's.
        max_length (`int`, *optional*): See [`write_networks`].
    """
    merged(copy.deepcopy(adapted)).save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length)


def write_state(
    folder: str, state: TrainerState, callbacks: Iterable[object], generators: Mapping[str, bytes | str]
) -> None:
    """Write the trainer's state, with those of its callbacks, and the states of the random generators.

    Args:
        folder (`str`): Exists.
        state (`TrainerState`): Gets the states of the callbacks that export one.
        callbacks (`Iterable`): Of the trainer, and its control.
        generators (`Mapping[str, bytes | str]`): See [`generator_states`].

    Raises:
        OSError: If a process could not give the state of its generators.
    """
    for name, content in generators.items():
        if isinstance(content, str):
            raise OSError(content)
        Path(folder, name).write_bytes(content)
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            name = type(callback).__name__
            # the declared type is a list of callbacks, but a state keeps a dictionary
            states = cast(dict[str, Any], state.stateful_callbacks)
            if isinstance(states[name], list):
                states[name].append(callback.state())
            else:
                states[name] = callback.state()
    state.save_to_json(os.path.join(folder, TRAINER_STATE_NAME))


def generator_states(save: Callable[[str], None], rank: int) -> dict[str, bytes | str]:
    """The states of the random generators of all processes.

    They are gathered, so that process 0 alone writes into the run's folder, on whatever machine the others are.

    Args:
        save (`Callable[[str], None]`): Writes this process's states into a folder.
        rank (`int`): Number of this process.

    Returns:
        `dict[str, bytes | str]`: From the name of a file to its content, or to the reason why there is none.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            save(folder)
            own: dict[str, bytes | str] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    except atomic_files.ERRORS as error:
        if not atomic_files.is_about_writing(error):
            raise
        reason = atomic_files.reason(error, tempfile.gettempdir())
        own = {f"rng_state_{rank}.pth": f"{reason} in {tempfile.gettempdir()}"}
    return {name: content for files in distributed.gather(own) for name, content in files.items()}
