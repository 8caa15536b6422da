import json

import pytest
from transformers import BertConfig, BertForMaskedLM

from adversarial_mlm import NoiserModel, presets


@pytest.mark.parametrize(("name", "millions"), [("tape-38m", 38.4), ("tape-92m", 86.1), ("small", 4.9), ("tiny", 0.9)])
def test_encoders_have_the_stated_size_and_are_plain_berts(name, millions):
    config = presets.encoder_config(name)
    assert type(config) is BertConfig and config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1
    assert round(BertForMaskedLM(config).num_parameters() / 1e6, 1) == millions


def test_tape_38m_is_the_transformer_profiled_in_tape():
    config = presets.encoder_config("tape-38m", max_position_embeddings=1024)
    sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert sizes == (512, 12, 8, 2048) and config.max_position_embeddings == 1024


@pytest.mark.parametrize(("name", "millions"), [("paper", 4.4), ("small", 0.6), ("tiny", 0.1)])
def test_noisers_have_the_stated_size(name, millions, vocabulary):
    noiser = NoiserModel(presets.noiser_config(name, vocabulary))
    assert round(noiser.num_parameters() / 1e6, 1) == millions


def test_an_unknown_name_is_refused_with_the_known_ones(vocabulary):
    with pytest.raises(ValueError, match="no encoder preset 'huge'; there are tape-38m, tape-92m, small, tiny"):
        presets.encoder_config("huge")
    with pytest.raises(ValueError, match="no noiser preset 'huge'"):
        presets.noiser_config("huge", vocabulary)


def test_a_game_may_not_be_changed_through_what_is_handed_out():
    presets.game("paper")["sampler"] = "logistic_topk"
    assert presets.game("paper")["sampler"] == "rss"
    with pytest.raises(ValueError, match="no preset 'chess'; there are paper"):
        presets.game("chess")


def test_recommended_is_an_arm_of_the_study_that_none_was_shown_to_beat(repository):
    study = json.loads((repository / "model_cards" / "study.json").read_text())
    (own,) = {entry["name"] for entry in study["arms"] if entry["options"] == presets.game("recommended")}
    shown = [
        row
        for row in study["differences"]
        if row["against"] == own and row["metric"] in ("confirmation_members_loss", "confirmation_families_loss")
    ]
    assert len({row["arm"] for row in shown}) >= 3
    assert not [row for row in shown if row["mean"] < 0 and row["adjusted_p"] < 0.05]


def test_on_other_families_no_rate_was_shown_to_beat_that_of_recommended(repository):
    study = json.loads((repository / "model_cards" / "study_falling.json").read_text())
    options = presets.game("recommended")
    own = next(entry for entry in study["arms"] if entry["name"] == "random_40")
    assert own["masks"]["rate"] == options["adversarial_rate"] + options["random_rate"]
    of_seconds = [row for row in study["differences"] if row["budget"] == "seconds"]
    shown = {row["arm"]: row for row in of_seconds if row["metric"] == "confirmation_members_loss"}
    assert shown["random_40"]["against"] == shown["falling"]["against"] == "random"
    assert {len(shown[name]["pairs"]) for name in ("random_40", "falling")} == {8}
    # the falling rate did not beat the best constant rate, and 40 % did not lose to it
    assert not (shown["falling"]["mean"] < 0 and shown["falling"]["adjusted_p"] < 0.05)
    assert not (shown["random_40"]["mean"] > 0 and shown["random_40"]["adjusted_p"] < 0.05)


def test_recommended_masks_as_the_tuned_baseline_that_no_arm_was_shown_to_beat_in_equal_time(repository):
    study = json.loads((repository / "model_cards" / "study_tuned.json").read_text())
    options = presets.game("recommended")
    baseline = next(entry for entry in study["arms"] if entry["name"] == "random")
    assert baseline["masks"]["rate"] == options["adversarial_rate"] + options["random_rate"]
    assert baseline["masks"]["mix"] == options["mask_options"] and options["masking"] == "random"
    shown = [row for row in study["differences"] if row["metric"] == "confirmation_members_loss"]
    shown = [row for row in shown if row["budget"] == "seconds"]
    assert len(shown) == 9 and {len(row["pairs"]) for row in shown} == {5}
    assert not [row for row in shown if row["mean"] < 0 and row["adjusted_p"] < 0.05]
