"""The facts of a card in a file of the run, and writing the card anew from them."""

import dataclasses
import json
import math
import os
import types
import typing
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig, PreTrainedConfig

from adversarial_mlm.models.configuration_noiser import NoiserConfig
from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.rendering import render
from adversarial_mlm.saving.model_card.results import merge_results
from adversarial_mlm.saving.run_files import CARD_FACTS_FILE, CARD_FILE, METRICS_FILE, NOISER_FOLDER
from adversarial_mlm.saving.run_folder import RunFolder
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CheckpointError, WritingError, one_line
from adversarial_mlm.utils.output_folders import occupy

_FORMAT = 1


def save_facts(facts: CardFacts, folder: str | os.PathLike, figures: dict[str, float]) -> None:
    """Write the facts of a card into the folder of its run, without the log and the configurations, which it holds.

    Args:
        facts ([`CardFacts`]): Facts of the run.
        folder (`str` or path): The folder.
        figures (`dict`): Figures of the saved weights, as `Trainer.evaluate` returns them; empty if there are none.
    """
    plain = _plain(dataclasses.replace(facts, log_history=[]))
    content = {"format": _FORMAT, "figures": figures, "facts": plain}
    if facts.encoder.adapters:  # their folder has no configuration of the encoder
        content["encoder"] = json.loads(facts.encoder.config.to_json_string(use_diff=False))
    atomic_files.replace_text(Path(folder, CARD_FACTS_FILE), json.dumps(content, indent=1) + "\n")


def read_facts(folder: str | os.PathLike) -> tuple[CardFacts, dict[str, float]]:
    """Read what [`save_facts`] wrote; returns the facts and the figures.

    Raises:
        CheckpointError: If the run is not complete, is of an earlier version, or if a file cannot be read.
    """
    path = Path(folder, CARD_FACTS_FILE)
    if not path.parent.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder; give the folder of a run")
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {CARD_FACTS_FILE}, from which its card could be written anew: `adv-mlm train` writes it "
            "at the end of a run"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']}, and this version reads {_FORMAT}")
        configs: dict[Any, Any] = {PreTrainedConfig: _config(folder, content.get("encoder"))}
        if content["facts"]["noiser"] is not None:
            configs[NoiserConfig] = NoiserConfig.from_json_file(Path(folder, NOISER_FOLDER, "config.json"))
        facts = _of_kind(CardFacts, content["facts"], configs)
        return dataclasses.replace(facts, log_history=_read_log(folder)), content["figures"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the facts of the card of {folder} cannot be read: {one_line(error)}") from error


def _config(folder: str | os.PathLike, saved: dict[str, Any] | None) -> PreTrainedConfig:
    """The encoder's configuration: a file of the folder, or for an adapter part of the facts."""
    return AutoConfig.from_pretrained(folder) if saved is None else AutoConfig.for_model(**saved)


def rewrite(folder: str | os.PathLike, overwrite: bool = False) -> None:
    """Write the card of a run anew, from the facts in its folder. Results of downstream tasks in the card are kept.

    Args:
        folder (`str` or path): The folder of a run.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace a card that was changed since the run
            wrote it.

    Raises:
        CheckpointError: If the facts cannot be read, or if the card was changed.
        RecipeError: If a run is in progress in the folder.
        WritingError: If the card cannot be written.
    """
    facts, figures = read_facts(folder)
    occupy(str(folder))
    run, path = RunFolder(str(folder)), Path(folder, CARD_FILE)
    if path.exists() and CARD_FILE in run.others() and not overwrite:
        raise CheckpointError(
            f"{path} was changed since its run wrote it, and your changes would be lost: keep a copy, and pass "
            "--overwrite"
        )
    card = render(facts, figures, folder)
    _keep_results(card, path)
    try:
        atomic_files.replace_text(path, str(card))
        run.note(CARD_FILE)
    except OSError as error:
        raise WritingError(f"{path} cannot be written: {error.strerror or error}") from error


def _keep_results(card: ModelCard, path: Path) -> None:
    """Add the results of the card that is to be replaced to the new one, but for those that are made anew."""
    if not path.exists():
        return
    try:
        earlier = _results(ModelCard.load(path))
    except Exception as error:  # yaml's and the Hub library's, of many classes
        raise CheckpointError(f"the results in {path} cannot be read ({one_line(error)}): move the file") from error
    own = {result.unique_identifier for result in _results(card)}
    of_tasks = [result for result in earlier if result.unique_identifier not in own]
    if of_tasks:
        merge_results(card, of_tasks, path)


def _results(card: ModelCard) -> list[EvalResult]:
    return typing.cast(ModelCardData, card.data).eval_results or []


def _read_log(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, in which null stands for a figure that is not finite."""
    with open(Path(folder, METRICS_FILE), encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    return [{key: math.nan if value is None else value for key, value in entry.items()} for entry in entries]


def _plain(value: Any) -> Any:
    if isinstance(value, PreTrainedConfig):
        return None  # in its own file
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _of_kind(kind: Any, value: Any, configs: dict[Any, Any]) -> Any:
    """Convert plain data to the type of an annotation; configurations come from `configs`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None and not any(member in configs for member in typing.get_args(kind)):
            return None
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    if kind in configs:
        return configs[kind]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = {field.name for field in dataclasses.fields(kind)}
        return typing.cast(Any, kind)(
            **{n: _of_kind(hints[n], item, configs) for n, item in value.items() if n in fields}
        )
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else inner
        return tuple(_of_kind(of, item, configs) for of, item in zip(kinds, value, strict=True))
    if typing.get_origin(kind) is list:
        return [_of_kind(inner[0], item, configs) for item in value]
    return value
