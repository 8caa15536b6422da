import datasets
import pytest

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
)


@pytest.fixture
def dataset(proteins):
    return datasets.Dataset.from_dict({"id": [str(i) for i in range(40)], "sequence": proteins[:400:10]})


@pytest.fixture
def make_trainer(tmp_path, tokenizer, make_encoder, make_noiser, dataset):
    """A trainer of tiny networks; `masking="random"` has no noiser."""

    def make(
        masking="adversarial",
        folder="run",
        dropout=0.0,
        double=False,
        data=dataset,
        collator=None,
        cls=None,
        noiser_config=None,
        masking_rules=None,
        **settings,
    ):
        encoder = make_encoder(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        noiser = make_noiser(hidden_dropout_prob=dropout, **(noiser_config or {}))
        if double:
            encoder, noiser = encoder.double(), noiser.double()
        if collator is None:
            if masking == "adversarial":
                collator = DataCollatorForAdversarialMLM(
                    tokenizer, noiser=noiser, max_length=64, **(masking_rules or {})
                )
            else:
                collator = DataCollatorForRandomMLM(tokenizer, random_rate=0.2, max_length=64)
        arguments = {
            "output_dir": str(tmp_path / folder),
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "noiser_learning_rate": 1e-3,
            "save_strategy": "no",
            "logging_steps": 2,
            "disable_tqdm": True,
            "report_to": [],
            "use_cpu": True,
            **settings,
        }
        if settings.get("noiser_update", "alternate") == "alternate":
            arguments = {"noiser_steps": 2, "encoder_steps": 2, **arguments}
        return (cls or AdversarialMLMTrainer)(
            model=encoder,
            args=AdversarialMLMTrainingArguments(**arguments),
            data_collator=collator,
            train_dataset=data,
            eval_dataset=dataset,
            processing_class=tokenizer,
        )

    return make
