"""What training started from, how much of it was trained, and adapters."""

import os
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.models.encoders import below_and_layers
from adversarial_mlm.saving.model_card.text import count, is_hub_name, without_paths

if TYPE_CHECKING:
    from adversarial_mlm.training.trainer import AdversarialMLMTrainer

# parts that no masked-LM loss reaches; they are frozen in every run, which does not make it one of a part
_NEVER_TRAINED = {"contact_head", "pooler"}

_ADAPTERS = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr"}  # otherwise as `peft` has it


def adapters(model: nn.Module) -> list[Any]:
    """The configurations of a model's adapters; empty where it has none. `peft` need not be installed."""
    wrapped_or_injected = hasattr(model, "get_base_model") or getattr(model, "_hf_peft_config_loaded", False)
    return list(model.peft_config.values()) if wrapped_or_injected and hasattr(model, "peft_config") else []


def encoder_of(model: nn.Module) -> PreTrainedModel:
    """The encoder under an adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def adapter_summary(model: nn.Module) -> str:
    """Kind, rank and place of a model's adapters; empty where it has none."""
    return "; ".join(_summary(config) for config in adapters(model))


def _summary(config: Any) -> str:
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    told = "DoRA" if getattr(config, "use_dora", False) else _ADAPTERS.get(kind, kind)
    if getattr(config, "r", None):
        told += f" of rank {config.r}" + (" (others in places)" if getattr(config, "rank_pattern", None) else "")
    if getattr(config, "lora_alpha", None):
        told += f" and alpha {config.lora_alpha:g}"
    told += _modules(" on ", getattr(config, "target_modules", None))
    return told + _modules("; trained as a whole: ", getattr(config, "modules_to_save", None))


def _modules(before: str, names: Any) -> str:
    """Names of modules, or the pattern that they match; nothing where there are none."""
    if not names:
        return ""
    names = [names] if isinstance(names, str) else sorted(names)
    if len(names) > 12:
        return f"{before}{len(names)} modules, which `adapter_config.json` lists"
    return before + ", ".join(f"`{name}`" for name in names)


def started_from(trainer: "AdversarialMLMTrainer") -> str | None:
    """Folder or name on the Hub that training started from, as it was given; `None` where weights were random.

    With a recipe that alone says it: its encoder may since have been read back from the run's own folder.
    """
    facts = trainer.run_facts
    if facts.get("base_model") or "recipe" in facts:
        return str(facts["base_model"]) if facts.get("base_model") else None
    names = [config.base_model_name_or_path for config in adapters(trainer.model)]
    encoder = encoder_of(trainer.model)
    names += [getattr(encoder, "name_or_path", None), getattr(encoder.config, "_name_or_path", None)]
    return next((str(name) for name in names if name), None)


def base_model(trainer: "AdversarialMLMTrainer") -> str | None:
    """What training started from, where it did not start from random weights, without a path of this machine."""
    name = started_from(trainer)
    if name is None or trainer.run_facts.get("base_model") or is_hub_name(name):
        return name and without_paths(name)
    return os.path.basename(os.path.abspath(name)) or "/"


def base_on_hub(trainer: "AdversarialMLMTrainer") -> str | None:
    """What training started from, where that is a name on the Hub."""
    name = started_from(trainer)
    return name if name is not None and is_hub_name(name) else None


def trained_parameters(trainer: "AdversarialMLMTrainer") -> int:
    """How many of the encoder's parameters were trained."""
    frozen = _frozen_by_recipe(trainer)
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad and id(p) not in frozen)


def _frozen_by_recipe(trainer: "AdversarialMLMTrainer") -> set[int]:
    """What `trained_layers` froze; a model that was read back from the run's folder does not know it any more."""
    kept = _trained_layers(trainer)
    if kept is None:
        return set()
    below, layers = below_and_layers(trainer.model)
    return {id(p) for module in [*below, *layers[: len(layers) - kept]] for p in module.parameters()}


def _trained_layers(trainer: "AdversarialMLMTrainer") -> int | None:
    recipe = trainer.run_facts.get("recipe")
    return None if recipe is None else recipe.model.trained_layers


def what_was_trained(trainer: "AdversarialMLMTrainer") -> str | None:
    """How many parameters were trained, and which; `None` where all were that a masked-LM loss reaches."""
    model, frozen = trainer.model, _frozen_by_recipe(trainer)
    partly = any(
        (not p.requires_grad or id(p) in frozen) and not _NEVER_TRAINED & set(name.split("."))
        for name, p in model.named_parameters()
    )
    if not partly:
        return None
    told = f"trained: {trained_parameters(trainer):,} of {count(_size(model), 'parameter')}"
    kept = _trained_layers(trainer)
    if adapters(model):
        told += ", those of the adapter"
    elif kept is not None:
        told += ", those of " + _last_layers(kept, model.config.num_hidden_layers) + "the head"
        output = model.get_output_embeddings()
        if output is not None and output.weight is model.get_input_embeddings().weight:
            told += " (but for its output weights, which are the embeddings)"
    return told + "; the others stayed as they were"


def _last_layers(kept: int, total: int) -> str:
    if kept == 0:
        return ""
    return f"the last {'' if kept == 1 else f'{kept} '}of its {count(total, 'layer')} and of "


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
