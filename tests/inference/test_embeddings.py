import json

import numpy as np
import pytest
import torch

from adversarial_mlm.data import CorpusError
from adversarial_mlm.inference.embeddings import (
    encode_proteins,
    encode_residues,
    merge_segments,
    random_twin,
    segment_edges,
    segments_for,
)
from adversarial_mlm.inference.feature_cache import FeatureCache, default_cache_dir, encoder_fingerprint
from adversarial_mlm.inference.frozen_encoder import FrozenEncoder, default_max_length
from adversarial_mlm.models.loading import load_backbone


@pytest.fixture
def backbone(make_encoder):
    return make_encoder().bert.eval()


@pytest.fixture
def some(proteins):
    return sorted(proteins[:400:50], key=len)


@torch.no_grad()
def one_by_one(model, tokenizer, sequence):
    """What the encoder says of the residues of one protein, through the tokenizer itself."""
    return model(**tokenizer(sequence, return_tensors="pt")).last_hidden_state[0, 1:-1].numpy()


def test_features_are_those_of_every_protein_by_itself(backbone, tokenizer, some):
    options = {"dtype": "float32", "batch_tokens": 600, "max_length": 512}
    found = encode_proteins(backbone, tokenizer, some, **options)
    residues = encode_residues(backbone, tokenizer, some, **options)
    alone = [one_by_one(backbone, tokenizer, sequence) for sequence in some]
    np.testing.assert_allclose(found[:, 0], [states.mean(axis=0) for states in alone], atol=2e-6)
    np.testing.assert_allclose(residues, np.concatenate(alone), atol=2e-3)  # float16
    assert residues.dtype == np.float16 and found.dtype == np.float32


def test_every_residue_of_a_long_protein_counts(backbone, tokenizer, some):
    long = some[-1]
    found = encode_proteins(backbone, tokenizer, [long], max_length=52, dtype="float32")
    parts = -(-len(long) // 50)
    edges = np.linspace(0, len(long), parts + 1).round().astype(int)
    states = [one_by_one(backbone, tokenizer, long[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    assert parts > 2
    np.testing.assert_allclose(found[0, 0], np.concatenate(states).mean(axis=0), atol=2e-6)
    residues = encode_residues(backbone, tokenizer, [long], max_length=52, dtype="float32")
    np.testing.assert_allclose(residues, np.concatenate(states), atol=2e-3)


def test_segments_are_means_of_stretches_and_merge_into_longer_ones(backbone, tokenizer, some):
    options = {"dtype": "float32", "max_length": 512}
    lengths = np.array([len(sequence) for sequence in some])
    fine = encode_proteins(backbone, tokenizer, some, segments=16, **options)
    edges = segment_edges(len(some[3]), 16)
    states = one_by_one(backbone, tokenizer, some[3])
    stretches = [states[a:b].mean(axis=0) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    np.testing.assert_allclose(fine[3], stretches, atol=2e-6)
    for segments in (1, 4):
        coarse = encode_proteins(backbone, tokenizer, some, segments=segments, **options)
        merged = merge_segments(fine, lengths, segments)
        np.testing.assert_allclose(merged, coarse.reshape(len(some), -1), atol=2e-6)


def test_a_protein_with_fewer_residues_than_segments_has_features(backbone, tokenizer):
    fine = encode_proteins(backbone, tokenizer, ["MKT", "MKTAYIAKQRQISFVKSHFSRQ"], segments=16, dtype="float32")
    merged = merge_segments(fine, np.array([3, 22]), 1)
    alone = [one_by_one(backbone, tokenizer, sequence).mean(axis=0) for sequence in ("MKT", "MKTAYIAKQRQISFVKSHFSRQ")]
    np.testing.assert_allclose(merged, alone, atol=2e-6)


@pytest.mark.parametrize("width, segments", [(16, 16), (256, 16), (512, 8), (768, 4), (1280, 2), (5120, 1)])
def test_wide_encoders_have_fewer_segments(width, segments):
    assert segments_for(width) == segments


def test_bfloat16_is_near_float32_and_another_layer_is_not(backbone, tokenizer, some):
    exact = encode_proteins(backbone, tokenizer, some, dtype="float32")
    rough = encode_proteins(backbone, tokenizer, some, dtype="bfloat16")
    assert 0 < np.abs(rough - exact).max() < 0.05
    last = encode_proteins(backbone, tokenizer, some, dtype="float32", layer=2)
    np.testing.assert_array_equal(last, exact)
    embeddings = encode_proteins(backbone, tokenizer, some[:1], dtype="float32", layer=0)
    with torch.no_grad():
        wanted = backbone.embeddings(tokenizer(some[0], return_tensors="pt")["input_ids"])[0, 1:-1].mean(dim=0)
    np.testing.assert_allclose(embeddings[0, 0], wanted, atol=2e-6)


def test_a_random_twin_is_the_same_for_the_same_seed_and_draws_nothing(backbone):
    state = torch.get_rng_state()
    twin, again, other = random_twin(backbone, 3), random_twin(backbone, 3), random_twin(backbone, 4)
    assert torch.equal(torch.get_rng_state(), state)
    weight = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(twin.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(twin.state_dict()[weight], other.state_dict()[weight])
    assert not torch.equal(twin.state_dict()[weight], backbone.state_dict()[weight])


def test_options_out_of_range_are_refused(backbone, tokenizer):
    for options, words in (
        ({"max_length": 600}, "max_length is 600, but the encoder has 512 positions"),
        ({"max_length": 2}, "leaves no room for a residue"),
        ({"layer": 3}, "layer is 3, but must be 0 to 2 for this encoder"),
        ({"dtype": "int8"}, "dtype must be one of bfloat16, float32"),
    ):
        with pytest.raises(ValueError, match=words):
            encode_proteins(backbone, tokenizer, ["MKT"], **options)


@pytest.mark.parametrize("encode", [encode_proteins, encode_residues])
def test_sequences_that_are_not_texts_are_refused(backbone, tokenizer, encode):
    with pytest.raises(ValueError, match="sequence 1 is 'None', but must be text"):
        encode(backbone, tokenizer, ["MKT", None])
    with pytest.raises(ValueError, match="sequences must be a list of texts, but is one text"):
        encode(backbone, tokenizer, "MKT")


def test_an_encoder_whose_output_is_not_finite_is_refused(backbone, tokenizer):
    torch.nn.init.constant_(backbone.encoder.layer[0].output.dense.bias, torch.nan)
    for encode in (encode_proteins, encode_residues):
        with pytest.raises(ValueError, match="output is not finite"):
            encode(backbone, tokenizer, ["MKT"])


@pytest.mark.parametrize("kind", ["esm", "modernbert", "roberta", "prot_bert"])
def test_foreign_encoders_are_read_as_their_tokenizers_would(save_encoder, kind):
    model, tokenizer = load_backbone(save_encoder(kind))
    model.eval()
    sequences = ["MKTAYIAKQR", "QISFVKSHFSRQLEERLG"]
    found = encode_proteins(model, tokenizer, sequences, dtype="float32")
    for row, sequence in zip(found[:, 0], sequences, strict=True):
        text = " ".join(sequence) if kind == "prot_bert" else sequence
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
        np.testing.assert_allclose(row, states.mean(dim=0).numpy(), atol=2e-6)


def test_the_default_length_is_the_tokenizers_or_the_encoders(make_encoder, tokenizer):
    assert default_max_length(make_encoder(max_position_embeddings=100).bert, tokenizer) == 100
    assert default_max_length(make_encoder().bert, tokenizer) == 512


def counted(array, calls):
    def compute():
        calls.append(1)
        return array

    return compute


def test_the_cache_gives_back_what_was_put_there(tmp_path):
    calls, array = [], np.arange(12, dtype=np.float16).reshape(3, 4)
    for hits in (0, 1):
        cache = FeatureCache(tmp_path)
        found = cache.get({"a": 1}, counted(array, calls))
        np.testing.assert_array_equal(found, array)
        assert (cache.hits, cache.misses) == (hits, 1 - hits)
    FeatureCache(tmp_path).get({"a": 2}, counted(array, calls))
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["values", "half", "json", "missing"])
def test_a_damaged_file_of_the_cache_is_computed_again(tmp_path, damage, caplog):
    calls, array = [], np.arange(1200, dtype=np.float32).reshape(30, 40)
    FeatureCache(tmp_path).get({"a": 1}, counted(array, calls))
    (path,), (facts,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    data = path.read_bytes()
    if damage == "values":
        path.write_bytes(data[:-8] + bytes(8))
    elif damage == "half":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "json":
        facts.write_text("{")
    else:
        facts.unlink()
    found = FeatureCache(tmp_path).get({"a": 1}, counted(array, calls))
    np.testing.assert_array_equal(found, array)
    assert len(calls) == 2
    assert ("damaged" in caplog.text) == (damage != "missing")
    FeatureCache(tmp_path).get({"a": 1}, counted(array, calls))
    assert len(calls) == 2
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["shape"] == [30, 40]


def test_a_cache_folder_that_cannot_be_written_is_refused_and_the_default_one_done_without(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="feature_cache_dir .* cannot be written"):
        FeatureCache(tmp_path / "file" / "below")
    monkeypatch.setattr("adversarial_mlm.inference.feature_cache.HF_HOME", str(tmp_path / "file"))
    cache = FeatureCache()
    assert "features are not cached" in caplog.text
    assert cache.get({"a": 1}, lambda: np.ones(3)).sum() == 3 and cache.misses == 1
    assert default_cache_dir().startswith(str(tmp_path))


def test_the_fingerprint_of_an_encoder_depends_on_weights_and_tokens_alone(make_encoder, tokenizer, tmp_path):
    first = encoder_fingerprint(make_encoder().bert, tokenizer)
    assert encoder_fingerprint(make_encoder().bert, tokenizer) == first
    make_encoder().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert encoder_fingerprint(*load_backbone(str(tmp_path))) == first
    assert encoder_fingerprint(make_encoder(seed=1).bert, tokenizer) != first
    changed = make_encoder().bert
    with torch.no_grad():
        changed.embeddings.word_embeddings.weight[7, 3] += 1e-3
    assert encoder_fingerprint(changed, tokenizer) != first


def test_equal_parts_of_proteins_are_read_once_and_give_the_same(backbone, tokenizer, some, monkeypatch):
    """Variants differ in one part; equal parts may also lie elsewhere in a protein of another length."""
    protein = some[0][:60]
    variants = [*(letter + protein[1:] for letter in "AGK"), protein[20:] + protein[:20], protein[:40], protein]
    options = {"dtype": "float32", "max_length": 22, "batch_tokens": 66}
    read, plain = [], FrozenEncoder.read

    def count(self, sequences, parts):
        read.append([sequences[owner][start:stop] for owner, start, stop in parts])
        return plain(self, sequences, parts)

    monkeypatch.setattr(FrozenEncoder, "read", count)
    seen = []
    residues = encode_residues(backbone, tokenizer, variants, on_batch=lambda *done: seen.append(done), **options)
    assert len(read[-1]) == len(set(read[-1])) == 6  # of 17 parts
    assert sum(number for _, number in seen) == len(residues) == sum(map(len, variants))
    assert {owner for owners, _ in seen for owner in owners} == set(range(6))
    proteins = encode_proteins(backbone, tokenizer, variants, segments=7, **options)
    assert len(read[-1]) < 17
    for row, variant in enumerate(variants):
        alone = encode_residues(backbone, tokenizer, [variant], **options)
        start = sum(map(len, variants[:row]))
        np.testing.assert_allclose(residues[start : start + len(variant)], alone, atol=2e-3)
        edges = segment_edges(len(variant), 7)
        means = [alone[a:b].astype(np.float32).mean(axis=0) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        np.testing.assert_allclose(proteins[row], means, atol=2e-3)
