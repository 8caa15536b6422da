"""Checks of options that transformers passes on to other libraries, which find mistakes late or in other words."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from adversarial_mlm.utils.errors import RecipeError, one_line
from adversarial_mlm.utils.spelling import did_you_mean, nearest

_OPTIM_ARGS = re.compile(r"\s*\w+\s*=[^=,]+(,\s*\w+\s*=[^=,]+)*")
_OF_CHECKPOINTING = {
    **dict.fromkeys(("use_reentrant", "preserve_rng_state", "debug", "early_stop", "offload"), bool),
    "every_n_layers": int,
    "determinism_check": str,
}
_NOT_LOOKED_FOR = ("azure_ml", "flyte")  # by transformers, in every case
_OPTIMIZERS_WITHOUT_ARGS = ("adamw_torch", "adamw_torch_fused", "adafactor")


def check_forms(args: TrainingArguments) -> None:
    """Check options before transformers reads them.

    Raises:
        ValueError: If an option has another form than it must have. The message names it.
    """
    for name in ("logging_steps", "eval_steps", "save_steps", "eval_delay", "warmup_steps"):
        value = getattr(args, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    for name, largest in (
        ("seed", 2**32 - 1),
        *((name, 2**63 - 1) for name in ("data_seed", "eval_mask_seed", "chunk_overhead", "tokens_per_micro_batch")),
    ):
        value = getattr(args, name, None)
        if value is not None and not 0 <= value <= largest:
            raise ValueError(f"{name} must be between 0 and {largest:,}, got {value}")
    if args.neftune_noise_alpha is not None and not 0 <= args.neftune_noise_alpha < math.inf:
        raise ValueError(f"neftune_noise_alpha must be at least 0 and finite, got {args.neftune_noise_alpha}")
    if args.dataloader_prefetch_factor is not None and args.dataloader_prefetch_factor < 1:
        raise ValueError(f"dataloader_prefetch_factor must be at least 1, got {args.dataloader_prefetch_factor}")
    if args.use_liger_kernel:
        raise ValueError("use_liger_kernel is not supported, because its kernels are for other models: remove it")
    if args.debug:
        raise ValueError("debug is not supported: updates that are not finite are skipped and reported anyway")
    _check_optim_args(args.optim_args, args.optim)
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        _check_checkpointing(name, getattr(args, name))
    _check_trackers(args.report_to)
    _check_accelerator_config(args.accelerator_config)


def check_trackers_installed(report_to: str | Sequence[str] | None) -> None:
    """Check that the packages of trackers are installed, before a tracker is made.

    Raises:
        RecipeError: If one is missing.
    """
    available = get_available_reporting_integrations()
    for name in [report_to] if isinstance(report_to, str) else report_to or ():
        if name not in available and name not in _NOT_LOOKED_FOR:
            raise RecipeError(
                f"report_to is {name}, but its package is not installed: install {name}, or remove it from report_to"
            )


def _check_optim_args(text: str | None, optim: Any) -> None:
    if not text:
        return
    if not _OPTIM_ARGS.fullmatch(text):
        raise ValueError(f"optim_args must have the form name=value,name=value, got '{text}'")
    name = getattr(optim, "value", optim)
    if name in _OPTIMIZERS_WITHOUT_ARGS:
        raise ValueError(f"optim_args is {text}, but optim: {name} does not use it: remove optim_args")


def _check_checkpointing(name: str, value: Any) -> None:
    for key, item in value.items() if isinstance(value, Mapping) else ():
        if key not in _OF_CHECKPOINTING:
            raise ValueError(f"{name} has no option '{key}'{did_you_mean(key, _OF_CHECKPOINTING)}")
        if not isinstance(item, _OF_CHECKPOINTING[key]):
            words = {bool: "true or false", int: "a whole number", str: "a text"}[_OF_CHECKPOINTING[key]]
            raise ValueError(f"{name}.{key} must be {words}, got {item!r}")


def _check_trackers(report_to: str | Iterable[str] | None) -> None:
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    if names in (["all"], ["none"]):
        return
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            near = nearest(str(name), (*INTEGRATION_TO_CALLBACK, "none", "all"))
            raise ValueError(
                f"report_to must be none, all or among {', '.join(INTEGRATION_TO_CALLBACK)}, got '{name}'"
                + (f"; did you mean '{near}'?" if near else "")
            )


def _check_accelerator_config(value: Any) -> None:
    """Check a mapping, or the JSON file at a path, by the fields of `AcceleratorConfig`."""
    if isinstance(value, str):
        try:
            found = json.loads(value if value.startswith("{") else Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"accelerator_config is {value}, which cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"accelerator_config is {value}, which is not JSON ({one_line(error)})") from error
        if not isinstance(found, dict):
            raise ValueError(f"accelerator_config is {value}, which does not hold a JSON object")
        value = found
    if not isinstance(value, Mapping):
        return  # an object, or nothing
    kinds = {field.name: field.type for field in dataclasses.fields(AcceleratorConfig)}
    for name, item in value.items():
        if name not in kinds:
            raise ValueError(f"accelerator_config has no option '{name}'{did_you_mean(name, kinds)}")
        if not isinstance(item, kinds[name]):  # type: ignore[arg-type]  # the types are classes or unions of them
            words = "a mapping" if name.endswith("_kwargs") else "true or false"
            raise ValueError(f"accelerator_config.{name} must be {words}, got {item!r}")
