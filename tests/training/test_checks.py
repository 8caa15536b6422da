import pytest
import torch

from adversarial_mlm import AdversarialMLMTrainingArguments, DataCollatorForRandomMLM
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.training.checks import check_encoder, check_fit


@pytest.fixture
def fit(save_encoder):
    """Check an encoder of a kind after a change of its configuration."""

    def fit(kind, max_length=60, **changes):
        model, tokenizer = load_encoder(save_encoder(kind))
        for name, value in changes.items():
            setattr(model.config, name, value)
        collator = DataCollatorForRandomMLM(tokenizer, max_length=max_length)
        check_encoder(model, collator)
        return model, collator

    return fit


@pytest.mark.parametrize("kind", ["bert", "prot_bert", "esm", "roberta", "modernbert"])
def test_an_encoder_fits_the_tokenizer_beside_it_and_reads_its_batches(fit, kind):
    model, collator = fit(kind)
    batch = collator([{"sequence": "ACDEFGHIKLMNPQRSTVWYBZXUO" * 3}])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape[:2] == (1, 60) and torch.isfinite(logits).all()


def test_a_preset_fits_the_tokenizer_of_this_package(make_encoder, tokenizer):
    check_encoder(make_encoder(), DataCollatorForRandomMLM(tokenizer, max_length=60))


@pytest.mark.parametrize(
    ("kind", "name", "found", "wanted"),
    [("bert", "pad_token_id", 5, 0), ("roberta", "pad_token_id", 0, 1), ("esm", "mask_token_id", 31, 32)],
)
def test_a_token_that_the_configuration_takes_for_another_is_refused(fit, kind, name, found, wanted):
    with pytest.raises(ValueError, match=f"{name} is {found} in the encoder's configuration, but {wanted} in the"):
        fit(kind, **{name: found})


def test_a_token_that_the_configuration_does_not_name_is_none_of_its_business(fit):
    model, collator = fit("bert", pad_token_id=None, bos_token_id=17)
    assert (model.config.pad_token_id, model.config.bos_token_id) == (None, 17)  # let through as it is
    assert collator.tokenizer.bos_token_id != 17


def test_token_dropout_without_a_mask_is_refused(fit):
    with pytest.raises(ValueError, match="token_dropout but no mask_token_id"):
        fit("esm", mask_token_id=None)


def test_a_length_beyond_the_positions_is_refused(fit):
    fit("roberta", max_length=128)
    with pytest.raises(ValueError, match="max_length is 129, but the encoder has 128 positions"):
        fit("roberta", max_length=129)


def test_a_vocabulary_beyond_the_embeddings_is_refused(make_encoder, save_encoder):
    _, tokenizer = load_encoder(save_encoder("esm"))
    with pytest.raises(ValueError, match="has 30 token embeddings, but the tokenizer has 33 tokens"):
        check_encoder(make_encoder(), DataCollatorForRandomMLM(tokenizer, max_length=60))


def test_the_table_of_embeddings_may_be_of_any_class(make_encoder, tokenizer):
    model = make_encoder()

    class Table(torch.nn.Module):  # as IBert's: a weight and no num_embeddings
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

    model.set_input_embeddings(Table(model.get_input_embeddings().weight))
    check_encoder(model, DataCollatorForRandomMLM(tokenizer, max_length=60))


def test_an_encoder_that_cannot_checkpoint_its_activations_is_refused_before_training(
    make_encoder, tokenizer, tmp_path
):
    args = AdversarialMLMTrainingArguments(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, activation_checkpointing=True
    )
    encoder, collator = make_encoder(), DataCollatorForRandomMLM(tokenizer, max_length=60)
    check_fit(encoder, args, collator)
    encoder.supports_gradient_checkpointing = False
    with pytest.raises(ValueError, match="activation_checkpointing is set, but BertForMaskedLM does not support it"):
        check_fit(encoder, args, collator)
