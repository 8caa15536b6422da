"""LoRA in fine-tuning: adapters in the encoder of a task model, saved on their own and merged in the end."""

import os
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from adversarial_mlm.downstream.modeling import ProteinTaskModel
from adversarial_mlm.models.adapters import LoraSettings, add_lora, merged
from adversarial_mlm.models.tokenization_protein import save_tokenizer
from adversarial_mlm.saving.model_card.text import is_hub_name

ADAPTER_FOLDER = "adapter"
_POOLER = "pooler."


def adapt(model: ProteinTaskModel, settings: LoraSettings, base: str, revision: str | None = None) -> None:
    """Put LoRA adapters into the encoder of a task model. They and the head can be trained.

    Args:
        model ([`ProteinTaskModel`]): The model.
        settings ([`LoraSettings`]): Options of LoRA.
        base (`str`): Folder or name on the Hub of the encoder.
        revision (`str`, *optional*): Branch, tag or commit of it.

    Raises:
        ValueError: See [`add_lora`].
    """
    adapted = add_lora(model.encoder, settings, base, revision)
    for name, parameter in model.encoder.named_parameters():
        if name.startswith(_POOLER):  # of a head of transformers: it has fresh weights
            parameter.requires_grad_(True)
    # not a module of its own, because its weights are those of the encoder
    object.__setattr__(model, "adapted", adapted)


def save_and_merge(
    model: ProteinTaskModel, tokenizer: PreTrainedTokenizerBase, output_dir: str, max_length: int
) -> None:
    """Write the adapter into `output_dir/adapter` and merge it into its encoder; nothing happens without an adapter.

    Args:
        model ([`ProteinTaskModel`]): The trained model.
        tokenizer (`PreTrainedTokenizerBase`): That of the encoder.
        output_dir (`str`): The folder of the model.
        max_length (`int`): Largest number of tokens of a row in training.
    """
    adapted = getattr(model, "adapted", None)
    if adapted is None:
        return
    folder = os.path.join(output_dir, ADAPTER_FOLDER)
    adapted.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length)
    Path(folder, "README.md").write_text(_card(model, adapted.peft_config["default"]), encoding="utf-8")
    merged(adapted)
    object.__delattr__(model, "adapted")


def _card(model: ProteinTaskModel, config: Any) -> str:
    """A card with the kind and rank of the adapter, and the share of the parameters that was trained."""
    whole = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    of_encoder = sum(parameter.numel() for parameter in model.encoder.parameters() if parameter.requires_grad)
    base = str(config.base_model_name_or_path)
    on_the_hub = is_hub_name(base)
    data = {"library_name": "peft", **({"base_model": base} if on_the_hub else {}), "tags": ["lora", "protein"]}
    targets = [config.target_modules] if isinstance(config.target_modules, str) else sorted(config.target_modules)
    modules = ", ".join(f"`{name}`" for name in targets)
    return (
        f"---\n{yaml.safe_dump(data)}---\n\n# An adapter from fine-tuning\n\n"
        f"LoRA of rank {config.r} and alpha {config.lora_alpha:g} on {modules}, for "
        f"the encoder `{base if on_the_hub else os.path.basename(os.path.abspath(base))}`.\n"
        f"It was trained together with a head for a task ({model.config.kind}), which is not part of it.\n\n"
        f"Trained parameters: {trained:,} of {whole:,} ({100 * trained / whole:.3g} %), {of_encoder:,} of them in the "
        "adapter; all others were frozen.\n"
    )
