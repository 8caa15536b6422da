"""One process of two that train while the losses of the second go wrong: `nan_run.py FOLDER`.

It trains three times, in a subfolder each. `spoiled`: losses go wrong in two updates; `left_out`: in none, but the
steps of those two are left out; `always`: in all updates. The exit status is that of the last run.
"""

import sys

import datasets
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import BertForMaskedLM

from adversarial_mlm import (
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    NoiserModel,
    build_protein_tokenizer,
    presets,
)
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary
from adversarial_mlm.training.update_guard import NonFiniteError
from tests.helpers.watched_trainer import ALWAYS, Watched

BAD = {("encoder", 3), ("noiser", 2)}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


class Faulty(Watched):
    """With the fault on the second process."""

    ranks = (1,)


def main(output_dir: str, mode: str) -> int:
    """Train; returns the exit status."""
    Faulty.spoiled = {"spoiled": BAD, "always": ALWAYS}.get(mode, set())
    Faulty.left_out = BAD if mode == "left_out" else set()
    trainer = make_trainer(output_dir)
    assert trainer.accelerator.num_processes == 2, trainer.accelerator.num_processes
    try:
        trainer.train()
    except NonFiniteError as error:
        print(error, file=sys.stderr)
        return 1
    save_file(state_of(trainer), f"{output_dir}/rank{trainer.accelerator.process_index}.safetensors")
    return 0


def make_trainer(output_dir: str) -> Faulty:
    """Tiny networks with dropout, 37 proteins of unequal length, two accumulated batches."""
    generator = torch.Generator().manual_seed(0)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    proteins = [
        "".join(letters[i] for i in torch.randint(20, (int(n),), generator=generator))
        for n in torch.randint(20, 60, (37,), generator=generator)
    ]
    tokenizer = build_protein_tokenizer()
    torch.manual_seed(0)
    encoder = BertForMaskedLM(presets.encoder_config("tiny", **SIZES))
    vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
    noiser = NoiserModel(presets.noiser_config("tiny", vocabulary, embedding_size=8, hidden_size=8))
    args = AdversarialMLMTrainingArguments(
        output_dir=output_dir,
        max_steps=8,
        noiser_steps=2,
        encoder_steps=2,
        max_skipped_updates=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        noiser_learning_rate=1e-3,
        logging_steps=2,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    return Faulty(
        model=encoder,
        args=args,
        data_collator=DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, max_length=50),
        train_dataset=datasets.Dataset.from_dict({"id": [str(i) for i in range(37)], "sequence": proteins}),
        processing_class=tokenizer,
    )


def state_of(trainer: Faulty) -> dict[str, torch.Tensor]:
    """Parameters, moments and counts of both networks."""
    state = {}
    for network, module in (("encoder", trainer.model), ("noiser", trainer.noiser)):
        for name, parameter in module.named_parameters():
            state[f"{network}.{name}"] = parameter.detach().contiguous()
            for key, value in trainer.optimizer.state[parameter].items():
                state[f"{network}.{name}.{key}"] = value.contiguous()
    return state


if __name__ == "__main__":
    for name in ("spoiled", "left_out"):
        assert main(f"{sys.argv[1]}/{name}", name) == 0
    status = main(f"{sys.argv[1]}/always", "always")
    PartialState().destroy_process_group()  # gloo's threads may abort a process that ends without
    sys.exit(status)
