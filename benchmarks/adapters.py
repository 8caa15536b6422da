"""Compare fine-tuning of adapters (LoRA) with fine-tuning of all weights, on one task."""

from collections.abc import Callable, Iterator

import torch

from adversarial_mlm import build_protein_tokenizer
from adversarial_mlm.downstream.adapted_encoder import adapt
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.downstream.modeling import ProteinTaskModel, TaskModelConfig
from adversarial_mlm.downstream.task_trainer import parameter_groups
from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.models.adapters import LoraSettings

from .measuring import Row, alternate, compare, timed
from .memory import peak_bytes
from .training import MAX_LENGTH, fresh_encoder, proteins

_BATCH = 16
_RANK = 8
_HYDROPHOBIC = "AVILMFWC"
_MIB = 2**20


def run(repetitions: int = 7, corpus: str | None = None) -> Iterator[Row]:
    """Measure the trained parameters, the time and the peak memory of an update.

    The task is a regression: the share of hydrophobic residues. Both models have the same encoder and head, and read
    the same batch. The memory is that of gradients, activations and the optimizer's state. The weights come on top,
    and are the same.
    """
    for size in ("small", "tape-38m"):
        yield from _rows(size, repetitions, corpus)


def _rows(size: str, repetitions: int, corpus: str | None) -> list[Row]:
    batch = _batch(corpus)
    models = [_model(size, lora) for lora in (True, False)]
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in models]
    of_encoder = [sum(p.numel() for p in model.encoder.parameters() if p.requires_grad) for model in models]
    of = f"fine-tuning, {size}, batch {_BATCH}, LoRA of rank {_RANK} ÷ all weights"
    seconds = alternate(timed(*(_update(model, batch) for model in models)), repetitions)
    memory = [[peak_bytes(_update(model, batch)) / _MIB] for model in models]
    return [
        compare(f"{of}: trained parameters", [trained[0]], [trained[1]], "", "", note="encoder and head"),
        compare(f"{of}: trained parameters of the encoder", [of_encoder[0]], [of_encoder[1]], "", ""),
        compare(f"{of}: time of an update", seconds[0], seconds[1], "s", ""),
        compare(f"{of}: peak memory of an update", memory[0], memory[1], "MiB", "", note="without the weights"),
    ]


def _batch(corpus: str | None) -> dict[str, torch.Tensor]:
    sequences = proteins(corpus).shuffle(seed=0)["sequence"][:_BATCH]
    shares = [sum(letter in _HYDROPHOBIC for letter in sequence) / len(sequence) for sequence in sequences]
    collator = DataCollatorForTask(build_protein_tokenizer(model_max_length=MAX_LENGTH), "regression", MAX_LENGTH)
    return collator([{"sequence": s, "label": share} for s, share in zip(sequences, shares, strict=True)])


def _model(size: str, lora: bool) -> ProteinTaskModel:
    config = fresh_encoder(size, max_position_embeddings=MAX_LENGTH).config.to_dict()
    model = ProteinTaskModel(TaskModelConfig(encoder_config=config, kind="regression", max_length=MAX_LENGTH))
    if lora:
        adapt(model, LoraSettings(rank=_RANK), size)
    return model.train()


def _update(model: ProteinTaskModel, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A whole update with a new optimizer, so that its state is part of the memory."""

    def update() -> None:
        model.zero_grad(set_to_none=True)
        optimizer = torch.optim.AdamW(parameter_groups(model, FinetuneSettings()))
        loss = model(**batch).loss
        assert loss is not None  # there are labels
        loss.backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)

    return update
