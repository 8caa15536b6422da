"""Reading an encoder into plain facts."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.models.encoders import below_and_layers
from adversarial_mlm.models.loading import has_optional_pooler
from adversarial_mlm.saving.model_card.facts import AdapterFacts, EncoderFacts

# parts that the masked-language-modelling loss never reaches; they are frozen in every run
_NEVER_TRAINED = {"contact_head", "pooler"}

_ADAPTERS = {"LORA": "LoRA", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr"}  # all others: the name in `peft`


def describe_encoder(model: PreTrainedModel, trained_layers: int | None = None) -> EncoderFacts:
    """Read the facts of an encoder, with or without an adapter.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The encoder. `peft` need not be installed.
        trained_layers (`int`, *optional*): The option of the recipe. It is needed because an encoder that was loaded
            from the output folder does not know which of its parameters were frozen.
    """
    configs = adapters(model)
    inner = getattr(model, "get_base_model", None)
    encoder = model if inner is None else inner()
    frozen = set() if trained_layers is None else _below_the_last(model, trained_layers)
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in frozen]
    names = [config.base_model_name_or_path for config in configs]
    names += [getattr(encoder, "name_or_path", None), getattr(encoder.config, "_name_or_path", None)]
    return EncoderFacts(
        class_name=type(encoder).__name__,
        config=model.config,
        name=next((str(name) for name in names if name), None),
        parameters=model.num_parameters(),
        trained_parameters=sum(p.numel() for p in trained),
        partly_trained=any(
            (not p.requires_grad or id(p) in frozen) and not _NEVER_TRAINED & set(name.split("."))
            for name, p in model.named_parameters()
        ),
        trained_layers=trained_layers,
        has_tied_output=_has_tied_output(model),
        has_pooler=not configs and has_optional_pooler(model.config),
        has_contact_head=any("contact_head" in name.split(".") for name, _ in model.named_parameters()),
        adapters=tuple(_describe_adapter(config) for config in configs),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def adapters(model: nn.Module) -> list[Any]:
    """The configurations of a model's adapters; empty if it has none."""
    wrapped_or_injected = hasattr(model, "get_base_model") or getattr(model, "_hf_peft_config_loaded", False)
    return list(getattr(model, "peft_config", {}).values()) if wrapped_or_injected else []


def _describe_adapter(config: Any) -> AdapterFacts:
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    return AdapterFacts(
        kind="DoRA" if getattr(config, "use_dora", False) else _ADAPTERS.get(kind, kind),
        rank=getattr(config, "r", None) or None,
        has_other_ranks=bool(getattr(config, "rank_pattern", None)),
        alpha=getattr(config, "lora_alpha", None) or None,
        modules=_names(getattr(config, "target_modules", None)),
        saved_modules=_names(getattr(config, "modules_to_save", None)),
    )


def _names(names: Any) -> tuple[str, ...]:
    if not names:
        return ()
    return (names,) if isinstance(names, str) else tuple(sorted(names))


def _below_the_last(model: PreTrainedModel, count: int) -> set[int]:
    """Ids of the parameters below the last `count` layers."""
    below, layers = below_and_layers(model)
    return {id(p) for module in [*below, *layers[: len(layers) - count]] for p in module.parameters()}


def _has_tied_output(model: PreTrainedModel) -> bool:
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight
