import numpy as np
import pytest
import torch

from adversarial_mlm.inference.attention_maps import AttentionReader, average_product_correction
from adversarial_mlm.models.loading import load_backbone
from adversarial_mlm.utils.errors import RecipeError

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLG"


def test_the_correction_is_that_of_the_formula():
    generator = np.random.default_rng(0)
    maps = generator.random((3, 7, 7))
    found = average_product_correction(torch.from_numpy(maps)).numpy()
    for of_head, corrected in zip(maps, found, strict=True):
        total = sum(of_head[k, m] for k in range(7) for m in range(7))
        for i in range(7):
            for j in range(7):
                row, column = sum(of_head[i]), sum(of_head[k, j] for k in range(7))
                assert corrected[i, j] == pytest.approx(of_head[i, j] - row * column / total)


def test_the_correction_takes_all_of_a_product_and_nothing_of_an_empty_map():
    product = torch.outer(torch.arange(1.0, 6), torch.arange(2.0, 7))
    torch.testing.assert_close(average_product_correction(product), torch.zeros(5, 5))
    torch.testing.assert_close(average_product_correction(torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))


@pytest.mark.parametrize("kind", ["bert", "prot_bert", "esm", "roberta", "modernbert"])
def test_features_are_the_corrected_maps_of_the_residues_alone(save_encoder, kind):
    model, tokenizer = load_backbone(save_encoder(kind, initializer_range=0.3))
    reader = AttentionReader(model.eval(), tokenizer)
    found = reader.pair_features(PROTEIN, 6)
    text = " ".join(PROTEIN) if reader.encoder.collator.table.spaced else PROTEIN
    with torch.no_grad():
        attentions = model(**tokenizer(text, return_tensors="pt"), output_attentions=True).attentions
    rows, columns = np.triu_indices(len(PROTEIN), 6)
    for number, of_layer in enumerate(attentions):
        for head, of_head in enumerate(of_layer[0]):
            of_residues = of_head[1:-1, 1:-1]
            wanted = average_product_correction(of_residues + of_residues.T)
            np.testing.assert_allclose(
                found[number * of_layer.shape[1] + head], wanted[rows, columns].numpy(), atol=1e-6
            )
    assert len(found) == len(attentions) * attentions[0].shape[1] == 6


def test_another_implementation_of_attention_is_set_to_eager(make_encoder, tokenizer):
    model = make_encoder().bert.eval()
    assert model.config._attn_implementation == "sdpa"
    AttentionReader(model, tokenizer).pair_features(PROTEIN, 6)
    assert model.config._attn_implementation == "eager"


def test_what_cannot_be_read_is_refused_in_one_sentence(make_encoder, tokenizer):
    model = make_encoder().bert.eval()
    with pytest.raises(RecipeError, match="a protein has 28 residues, but max_length is 20, which is 18 residues"):
        AttentionReader(model, tokenizer, 20).pair_features(PROTEIN, 6)
    with torch.no_grad():
        model.encoder.layer[0].attention.self.query.weight.fill_(torch.nan)
    with pytest.raises(RecipeError, match="the encoder's attention is not finite"):
        AttentionReader(model, tokenizer).pair_features(PROTEIN, 6)
