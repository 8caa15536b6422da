import pytest
import torch
from torch import nn

from adversarial_mlm import NoiserConfig, NoiserModel
from tests.helpers.loaded_networks import check_same_weights


@pytest.fixture
def batch(tokenizer, proteins):
    return tokenizer(proteins[:4], padding=True, return_tensors="pt")


def test_an_untrained_noiser_is_a_random_masker_with_80_10_10(tokenizer, batch):
    noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, embedding_size=16, hidden_size=16))
    scores = noiser(batch["input_ids"], batch["attention_mask"])
    assert (scores.any_mask_scores == 0).all()
    shares = torch.softmax(scores.option_scores, dim=-1)
    assert torch.allclose(shares[..., 0], torch.tensor(0.8)) and torch.allclose(shares[..., 1], torch.tensor(0.1))
    assert torch.allclose(shares[..., 2:], torch.tensor(0.1 / 20))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_it_is_pytorchs_gru(make_noiser, batch, bidirectional):
    noiser = make_noiser(bidirectional=bidirectional)
    units = 6 if bidirectional else 12
    reference = nn.GRU(8, units, num_layers=2, batch_first=True, bidirectional=bidirectional)
    directions = {"": noiser.backbone.forwards, "_reverse": noiser.backbone.backwards}
    for suffix, layers in directions.items():
        for index, layer in enumerate(layers):
            for name, value in layer.named_parameters():
                getattr(reference, f"{name[:-1]}{index}{suffix}").data.copy_(value)
    ids = batch["input_ids"][:1, :33]
    expected = noiser.score(reference(noiser.embeddings(ids))[0])
    assert torch.allclose(noiser(ids).any_mask_scores, expected[..., 0], atol=1e-6)


@pytest.mark.parametrize(("bidirectional", "sees_ahead"), [(True, True), (False, False)])
def test_only_a_bidirectional_noiser_sees_what_comes_later(make_noiser, batch, bidirectional, sees_ahead):
    noiser = make_noiser(bidirectional=bidirectional)
    ids = batch["input_ids"][:1, :20].clone()
    before = noiser(ids).any_mask_scores
    ids[0, 15] = 5 if ids[0, 15] != 5 else 6
    assert (not torch.equal(noiser(ids).any_mask_scores[:, :15], before[:, :15])) == sees_ahead


def test_save_and_load(make_noiser, batch, tmp_path):
    noiser = make_noiser()
    noiser.save_pretrained(tmp_path / "noiser")
    loaded = NoiserModel.from_pretrained(tmp_path, subfolder="noiser")
    check_same_weights(loaded, noiser)
    torch.testing.assert_close(loaded(batch["input_ids"]).option_scores, noiser(batch["input_ids"]).option_scores)
    of_loading = {"dtype": None, "_name_or_path": None}
    assert loaded.config.to_dict() | of_loading == noiser.config.to_dict() | of_loading
    assert {path.name for path in (tmp_path / "noiser").iterdir()} == {"config.json", "model.safetensors"}


def test_scores_are_float32_under_autocast(make_noiser, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make_noiser()(batch["input_ids"]).any_mask_scores.dtype == torch.float32
