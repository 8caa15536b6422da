import dataclasses

import pytest

from adversarial_mlm import NoiserConfig, NoiserModel
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES


def test_the_default_is_the_papers_noiser_for_tapes_vocabulary(tokenizer):
    config = NoiserConfig()
    assert (config.embedding_size, config.hidden_size, config.num_hidden_layers) == (1024, 512, 3)
    noiser = NoiserModel(config)
    assert noiser.score.in_features == 512 and noiser.score.out_features == 1 + 2 + 20
    assert 4.3e6 < noiser.num_parameters() < 4.5e6
    fitted = NoiserConfig.from_tokenizer(tokenizer)
    assert config.residue_ids == fitted.residue_ids and config.replacement_ids == fitted.replacement_ids
    assert tokenizer.convert_ids_to_tokens(config.replacement_ids) == list(STANDARD_RESIDUES)


def test_a_noiser_made_for_another_tokenizer_is_refused_by_the_field_that_differs(tokenizer, vocabulary):
    config = NoiserConfig.from_tokenizer(tokenizer)
    config.check_vocabulary(vocabulary)
    with pytest.raises(ValueError, match="mask_token_id is 1, the tokenizer's is 4"):
        config.check_vocabulary(dataclasses.replace(vocabulary, mask_token_id=4))
    with pytest.raises(ValueError, match="vocab_size is 30, the tokenizer's is 33"):
        config.check_vocabulary(dataclasses.replace(vocabulary, vocab_size=33))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"hidden_size": 7}, "hidden_size"),
        ({"initial_mask_options": [0.8, 0.2, 0.0]}, "initial_mask_options"),
        ({"initial_mask_options": [0.8, 0.1, 0.2]}, "initial_mask_options"),
        ({"vocab_size": 20}, "vocab_size - 1 = 19"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, word):
    with pytest.raises(ValueError, match=word):
        NoiserConfig(**settings)
