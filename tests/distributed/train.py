"""Short runs in float64 without dropout, 8 proteins an update; each writes parameters and log. Started by the tests:
`train.py OUTPUT_DIR WORLD_SIZE GAME=BATCH_SIZE...`."""

import sys

import datasets
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
from transformers import BertForMaskedLM, EsmConfig, EsmForMaskedLM

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForChosenProteinsMLM,
    NoiserModel,
    build_protein_tokenizer,
    presets,
)
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary

UPDATES = 7
PROTEINS = 21
GAMES = {
    "alternate": {"noiser_steps": 3, "encoder_steps": 2},
    "stream": {"noiser_steps": 3, "encoder_steps": 2},
    "reversal": {"noiser_update": "reversal", "noiser_every": 2, "importance_exponent": 1.0},
    "credit": {
        "noiser_steps": 3,
        "encoder_steps": 2,
        "noiser_reward": "credit",
        "loss_scope": "all",
        "unmasked_weight": 0.5,
    },
    "checkpointed": {"noiser_steps": 3, "encoder_steps": 2, "activation_checkpointing": True},
    "checkpointed-reversal": {"noiser_update": "reversal", "noiser_every": 2, "activation_checkpointing": True},
    "compiled": {"noiser_steps": 3, "encoder_steps": 2, "torch_compile": True, "torch_compile_backend": "aot_eager"},
    # reads 12 proteins an update, and trains on 6
    "chosen": {
        "noiser_update": "reversal",
        "noiser_every": 2,
        "noiser_reward": "learnability",
        "teacher": "ema",
        "teacher_decay": 0.6,
        "global_batch_size": 12,
    },
    # an epoch of 21 proteins has 3 updates of 8 (the last has 5), so the size changes within the second epoch
    "stages": {
        "noiser_steps": 3,
        "encoder_steps": 2,
        "global_batch_size": ["8@0", "16@4"],
        "teacher": "ema",
        "teacher_decay": 0.6,
        "loss_weights": "learnability",
        "soft_targets": ["0.7@0", "0@80%"],
    },
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VIEWS = {"reversal": "context", "credit": "blind", "stages": "blind", "chosen": "blind"}


def make_encoder(game: str):
    if game != "credit":
        return BertForMaskedLM(presets.encoder_config("tiny", **SIZES, **DROPOUT))
    # an ESM-2, whose contact head no loss reaches, so that DistributedDataParallel would wait for it
    tokens = {"vocab_size": 30, "pad_token_id": 0, "mask_token_id": 1}
    return EsmForMaskedLM(
        EsmConfig(**tokens, **SIZES, **DROPOUT, position_embedding_type="rotary", token_dropout=True)
    )


def check_wrapping(trainer: AdversarialMLMTrainer) -> None:
    """Both networks are under DistributedDataParallel, which neither looks for unused parameters nor sends buffers."""
    for network in (trainer.model_wrapped, trainer.game._wrapped):
        network = getattr(network, "_orig_mod", network)  # of a compiled one
        assert isinstance(network, DistributedDataParallel)
        assert not network.find_unused_parameters and not network.broadcast_buffers
    assert torch.distributed.get_backend() == "gloo"


def main(output_dir: str, world_size: int, batch_size: int, game: str) -> None:
    generator = torch.Generator().manual_seed(0)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    proteins = [
        "".join(letters[i] for i in torch.randint(20, (int(n),), generator=generator))
        for n in torch.randint(20, 60, (PROTEINS,), generator=generator)
    ]
    data = datasets.Dataset.from_dict({"sequence": proteins})
    tokenizer = build_protein_tokenizer()
    torch.manual_seed(0)
    encoder = make_encoder(game).double()
    vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
    noiser = NoiserModel(
        presets.noiser_config("tiny", vocabulary, embedding_size=8, hidden_size=8, view=VIEWS.get(game, "full"))
    )
    noiser = noiser.double()
    args = AdversarialMLMTrainingArguments(
        output_dir=output_dir,
        max_steps=UPDATES,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=3,
        learning_rate=1e-3,
        noiser_learning_rate=1e-3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=UPDATES,
        save_strategy="no",
        optim="adamw_torch",
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
        **{"global_batch_size": 8, **GAMES[game]},
    )
    collator = DataCollatorForChosenProteinsMLM if game == "chosen" else DataCollatorForAdversarialMLM
    if game == "chosen":  # one that prefers some proteins from the start
        torch.nn.init.normal_(noiser.score.weight, std=3.0)
    trainer = AdversarialMLMTrainer(
        model=encoder,
        args=args,
        data_collator=collator(tokenizer, noiser=noiser, max_length=50),
        train_dataset=data.to_iterable_dataset(num_shards=3) if game == "stream" else data,
        eval_dataset=data,
        processing_class=tokenizer,
    )
    assert trainer.accelerator.num_processes == world_size, trainer.accelerator.num_processes
    trainer.train()
    if world_size > 1:
        check_wrapping(trainer)
    few = trainer.evaluate(data.select(range(3)), metric_key_prefix="eval_few")  # the second process has none of them
    assert few["eval_few_masked_residues"] > 0 and ("eval_few_gap" in few) == (game != "chosen")
    parameters = {f"encoder.{n}": p.detach().contiguous() for n, p in trainer.model.named_parameters()}
    parameters |= {f"noiser.{n}": p.detach().contiguous() for n, p in trainer.noiser.named_parameters()}
    save_file(parameters, f"{output_dir}/rank{trainer.accelerator.process_index}.safetensors")


if __name__ == "__main__":
    folder, world, *games = sys.argv[1:]
    for name, batch in (word.split("=") for word in games):
        main(f"{folder}/{name}", int(world), int(batch), name)
    Accelerator().end_training()  # gloo's threads may abort a process that ends without
