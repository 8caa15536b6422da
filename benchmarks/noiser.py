"""Measure the noiser's forward and backward pass with each backbone."""

import torch

from adversarial_mlm import DataCollatorForRandomMLM, NoiserModel, build_protein_tokenizer, presets

from .measuring import Row, alternate, compare, timed
from .training import MAX_LENGTH, proteins

_BATCH = 16


def run(repetitions: int = 5, corpus: str | None = None) -> list[Row]:
    """Compare the backbones at the paper's size, and the non-sequential part of the GRU with all of it."""
    tokenizer = build_protein_tokenizer(model_max_length=MAX_LENGTH)
    collator = DataCollatorForRandomMLM(tokenizer, max_length=MAX_LENGTH)
    dataset = proteins(corpus)
    batch = collator([dataset[index] for index in range(_BATCH)])

    def reading(backbone: str):
        noiser = NoiserModel(presets.noiser_config("paper", collator.vocabulary, backbone=backbone))

        def forward_and_backward():
            output = noiser(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            (output.any_mask_scores.sum() + output.option_scores.sum()).backward()

        return noiser, forward_and_backward

    (gru, gru_job), (_, conv_job), (_, transformer_job) = map(reading, ("gru", "conv", "transformer"))

    def without_time():
        """Compute the GRU's products with its inputs: the part that is not sequential."""
        hidden = gru.embeddings(batch["input_ids"])
        for ahead, back in zip(gru.backbone.forwards, gru.backbone.backwards, strict=True):
            both = [hidden @ direction.weight_ih_l0.T for direction in (ahead, back)]
            units = ahead.hidden_size
            hidden = torch.cat([part[..., :units] for part in both], dim=-1)
        hidden.sum().backward()

    series = alternate(timed(gru_job, conv_job, transformer_job, without_time), repetitions)
    of = f"noiser of the paper's size, {_BATCH} proteins, forward and backward"
    milliseconds = [[second * 1e3 for second in one] for one in series]
    return [
        compare(f"{of}: convolutions ÷ GRU", milliseconds[1], milliseconds[0], "ms", ""),
        compare(f"{of}: transformer ÷ GRU", milliseconds[2], milliseconds[0], "ms", ""),
        compare(
            "GRU: the part that is not sequential ÷ all",
            milliseconds[3],
            milliseconds[0],
            "ms",
            "",
            note="products of all inputs at once",
        ),
    ]
