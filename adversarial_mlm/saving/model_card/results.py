"""Figures of a card: tables for readers, `model-index` for the Hub, and results that are added later."""

import math
import numbers
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from adversarial_mlm.masking.statistics import most_masked
from adversarial_mlm.saving.model_card.text import table
from adversarial_mlm.saving.run_files import CARD_FILE

_METRICS = {
    "loss": ("cross_entropy", "Cross-entropy (nats)"),
    "perplexity": ("perplexity", "Perplexity"),
    "accuracy": ("accuracy", "Accuracy"),
}


class Figures:
    """The newest figures of each held-out set.

    Args:
        log_history (`Sequence[dict]`): Log entries in order, with the names that `Trainer.evaluate` gives them.
        step (`int`): Used for entries that have no `step`.

    Attributes:
        by_set (`dict[str, dict[str, float]]`): Name of the set → figure → value.
        step (`int`): Number of encoder updates at the newest entry.
    """

    def __init__(self, log_history: Sequence[dict], step: int):
        self.by_set: dict[str, dict[str, float]] = {}
        self.step = step
        for entry in log_history:
            for key in entry:
                if key.startswith("eval") and key.endswith("_perplexity"):
                    prefix = key.removesuffix("perplexity")
                    name = prefix.removeprefix("eval").strip("_") or "validation"
                    self.by_set[name] = {k.removeprefix(prefix): v for k, v in entry.items() if k.startswith(prefix)}
                    self.step = int(entry.get("step", step))

    @property
    def has_background(self) -> bool:
        """Whether there are figures of the background predictor. A streamed training set gives none."""
        return any("background_loss" in of for of in self.by_set.values())

    @property
    def has_context_gap(self) -> bool:
        """Whether there is a context gap (`eval_context_gap`)."""
        return any("context_gap" in of for of in self.by_set.values())

    def random_table(self) -> str:
        """Table of the figures under random masks; empty if nothing was evaluated."""
        columns = {"cross-entropy": "loss", "perplexity": "perplexity", "accuracy": "accuracy"}
        if self.has_background:
            columns["background predictor"] = "background_loss"
        if self.has_context_gap:
            columns["context gap"] = "context_gap"
        rows = [(name, *(_number(of.get(key)) for key in columns.values())) for name, of in self.by_set.items()]
        return table(("held-out set", *columns), rows, numbers=True) if rows else ""

    def noiser_table(self) -> str:
        """Table of the figures under the noiser's masks; empty if there are none."""
        headers = ("held-out set", "noiser's masks", "random masks", "gap", "most masked by the noiser")
        rows = [
            (
                name,
                *(_number(of.get(key)) for key in ("adversarial_loss", "random_loss")),
                _number(of.get("mask_gap"), "+.3f"),
                most_masked(of),
            )
            for name, of in self.by_set.items()
            if "adversarial_loss" in of
        ]
        return table(headers, rows, numbers=True) if rows else ""

    def eval_results(self, mask_rate: float, mask_seed: int) -> list[EvalResult]:
        """The figures for `model-index`, without values that are not finite, which the Hub does not accept."""
        return [
            EvalResult(
                task_type="fill-mask",
                task_name="Predicting masked residues",
                dataset_type="held-out-proteins",
                dataset_name=f"Held-out proteins: {name}",
                dataset_config=name,
                metric_type=metric,
                metric_name=told,
                metric_args={"mask_rate": mask_rate, "mask_seed": mask_seed},
                metric_value=round(of[key], 4),
            )
            for name, of in self.by_set.items()
            for key, (metric, told) in _METRICS.items()
            if key in of and math.isfinite(of[key])
        ]


def _number(value: float | None, how: str = ".3f") -> str:
    return "–" if value is None else format(value, how)


def _same_metric(result: EvalResult) -> tuple:
    return (*result.unique_identifier, result.metric_type, result.metric_name, result.metric_config)


def add_results(path: str | os.PathLike, results: list[EvalResult]) -> None:
    """Add results, such as those of a downstream task, to the `model-index` of a saved card.

    The text of the card does not change. A result replaces an earlier one of the same task, dataset and metric.

    Args:
        path (`str` or path): Folder of a model, or its card.
        results (`list[EvalResult]`): The results to add.

    Raises:
        ValueError: If there is no card, if a value is not finite, or if two results differ only in fields by which a
            `model-index` cannot tell them apart, such as the name of the dataset.
    """
    path = os.path.join(path, CARD_FILE) if os.path.isdir(path) else os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"{path} does not exist: add_results needs a saved model card")
    card = ModelCard.load(path)
    merge_results(card, results, path)
    card.save(path)


def merge_results(card: ModelCard, results: list[EvalResult], path: str | os.PathLike) -> None:
    """Add results to the `model-index` of a card in memory.

    Args:
        card (`ModelCard`): The card.
        results (`list[EvalResult]`): The results to add.
        path (`str` or path): The card's file, for messages and the name of the model.

    Raises:
        ValueError: See [`add_results`].
    """
    data = cast(ModelCardData, card.data)
    merged = {_same_metric(result): result for result in data.eval_results or []}
    merged.update((_same_metric(result), replace(result, metric_value=_yaml_value(result))) for result in results)
    data.eval_results = list(merged.values())
    data.model_name = data.model_name or os.path.basename(os.path.dirname(os.path.abspath(path)))
    kept = cast(ModelCardData, ModelCard(str(card)).data).eval_results or []
    for result in merged.values():
        if result not in kept:
            raise ValueError(
                f"{path}: model-index cannot hold the {result.metric_type} on {result.dataset_name}, because another "
                "result has the same task and dataset (type, config, split, revision) but another name, args or "
                "source; give the datasets different types, configs or splits"
            )


def _yaml_value(result: EvalResult) -> int | float | str:
    """The value of a result as a Python number or string; YAML has no types of NumPy or PyTorch."""
    value = result.metric_value
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, numbers.Real) and not math.isfinite(value):
        raise ValueError(f"the {result.metric_type} on {result.dataset_name} is {value}; it must be finite")
    return value
