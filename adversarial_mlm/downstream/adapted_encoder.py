"""LoRA in fine-tuning: adapters in the encoder of a task model, saved on their own and merged in the end."""

import os

from transformers import PreTrainedTokenizerBase

from adversarial_mlm.downstream.modeling import ProteinTaskModel
from adversarial_mlm.models.adapters import LoraSettings, add_lora, merged
from adversarial_mlm.models.tokenization_protein import save_tokenizer

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
    merged(adapted)
    object.__delattr__(model, "adapted")
