import pytest
import torch

from adversarial_mlm import NoiserConfig, NoiserModel
from adversarial_mlm.masking.corruption import corrupt_batch
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.rules import MaskingRules
from tests.helpers.loaded_networks import check_same_weights

KINDS = {
    "gru": {},
    "one way": {"bidirectional": False},
    "context": {"view": "context"},
    "context, one way": {"view": "context", "bidirectional": False},
    "conv": {"backbone": "conv"},
    "transformer": {"backbone": "transformer", "num_attention_heads": 2},
}


@pytest.fixture(params=KINDS)
def settings(request):
    return KINDS[request.param]


@pytest.fixture
def inputs(tokenizer, proteins):
    return tokenizer(sorted(proteins[:6], key=len), padding=True, return_tensors="pt")


def scores_of(noiser, ids, mask=None) -> torch.Tensor:
    output = noiser.eval()(ids, mask)
    return torch.cat([output.any_mask_scores[..., None], output.option_scores], dim=-1)


def test_padding_changes_no_score(make_noiser, settings, inputs):
    noiser = make_noiser(hidden_size=16, **settings).double()
    together = scores_of(noiser, inputs["input_ids"], inputs["attention_mask"])
    for row in range(len(together)):
        length = int(inputs["attention_mask"][row].sum())
        alone = scores_of(noiser, inputs["input_ids"][row : row + 1, :length])
        assert torch.allclose(alone[0], together[row, :length], atol=1e-5)


def test_padding_changes_nothing_with_written_out_attention_either(make_noiser, inputs):
    noiser = make_noiser(hidden_size=16, **KINDS["transformer"])
    usual = scores_of(noiser, inputs["input_ids"], inputs["attention_mask"])
    noiser.set_attn_implementation("eager")
    written_out = scores_of(noiser, inputs["input_ids"], inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    assert noiser.backbone.transformer.config._attn_implementation == "eager"
    assert torch.allclose(written_out[real], usual[real], atol=1e-5)


def test_every_parameter_learns(make_noiser, settings, inputs):
    noiser = make_noiser(hidden_size=16, **settings)
    output = noiser(inputs["input_ids"], inputs["attention_mask"])
    (output.any_mask_scores.square().sum() + output.option_scores.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in noiser.parameters())


def test_a_score_depends_on_the_residue_there_unless_the_view_is_context(make_noiser, settings, inputs):
    noiser = make_noiser(hidden_size=16, **settings)
    ids, length = inputs["input_ids"][-1:], int(inputs["attention_mask"][-1].sum())
    before = scores_of(noiser, ids)
    changes = []
    for place in range(1, length - 1, 7):
        changed = ids.clone()
        changed[0, place] = 5 + (changed[0, place] - 5 + 3) % 20
        difference = (scores_of(noiser, changed) - before).abs().amax(dim=-1)[0]
        changes.append(difference[place].item())
        assert difference.max() > 0.01  # others see it
        if settings == {"view": "context", "bidirectional": False}:
            assert not difference[: place + 1].any()
    assert (max(changes) == 0) if settings.get("view") == "context" else (min(changes) > 0.01)


def test_both_ends_reach_the_middle(make_noiser, inputs):
    noiser = make_noiser(hidden_size=16, view="context").double()
    ids = inputs["input_ids"][:1, : int(inputs["attention_mask"][0].sum())]
    middle = ids.shape[1] // 2
    before = scores_of(noiser, ids)
    for place in (middle - 1, middle + 1):
        changed = ids.clone()
        changed[0, place] = 5 + (changed[0, place] - 5 + 3) % 20
        assert (scores_of(noiser, changed) - before)[0, middle].abs().max() > 0.01


def test_an_untrained_noiser_is_a_random_masker(tokenizer, vocabulary, settings, inputs):
    torch.manual_seed(0)
    noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, embedding_size=8, hidden_size=16, **settings))
    copies = 200
    ids, mask = (inputs[name].repeat(copies, 1) for name in ("input_ids", "attention_mask"))
    residues = mask.bool() & (ids >= 5)
    batch = {"input_ids": ids, "attention_mask": mask, "residue_mask": residues, "num_residues": residues.sum(dim=1)}
    with torch.no_grad():
        corrupted = corrupt_batch(
            batch,
            row_keys(0, ENCODER_PHASE, 0, torch.arange(len(ids))),
            vocabulary,
            MaskingRules(0.1, adversarial_rate=0.2),
            noiser.eval(),
        )
    options = torch.bincount(corrupted.option[corrupted.adversarial], minlength=3) / corrupted.adversarial.sum()
    assert torch.allclose(options, torch.tensor([0.8, 0.1, 0.1]), atol=0.01)
    assert torch.allclose(corrupted.choice.entropy, torch.ones(len(ids)), atol=1e-5)
    assert torch.allclose(corrupted.choice.importance[residues], torch.ones(int(residues.sum())), atol=1e-3)


def test_it_comes_back_from_a_file_as_it_was(make_noiser, settings, inputs, tmp_path):
    noiser = make_noiser(hidden_size=16, **settings)
    noiser.save_pretrained(tmp_path)
    loaded = NoiserModel.from_pretrained(tmp_path)
    check_same_weights(loaded, noiser)
    torch.testing.assert_close(scores_of(loaded, inputs["input_ids"]), scores_of(noiser, inputs["input_ids"]))
    assert loaded.config.view == noiser.config.view and loaded.config.backbone == noiser.config.backbone


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "mamba"}, "backbone must be one of gru, conv, transformer"),
        ({"view": "psychic"}, "view must be one of full, context, blind"),
        ({"view": "context", "backbone": "conv"}, "the view 'context' needs the backbone gru"),
        ({"backbone": "conv", "kernel_size": 4}, "kernel_size is 4"),
        ({"backbone": "transformer", "hidden_size": 24, "num_attention_heads": 8}, "twice its num_attention_heads"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        NoiserConfig(**settings)
