import numpy as np
import pytest
import torch

from adversarial_mlm import embed_proteins
from adversarial_mlm.data import CorpusError
from adversarial_mlm.inference import protein_embeddings
from adversarial_mlm.inference.windows import window_starts
from adversarial_mlm.models.loading import load_backbone
from tests.helpers.foreign_encoders import BUILDERS

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of tiny encoders, each made when it is asked for."""
    made = {}

    def folder(kind: str) -> str:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            model, tokenizer = BUILDERS[kind](path)
            for saved in (model, tokenizer):
                saved.save_pretrained(path)
            made[kind] = str(path)
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def bert(encoders):
    model, tokenizer = load_backbone(encoders("bert"))
    return model.eval(), tokenizer


def some_proteins(count: int, longest: int, seed: int = 0) -> list[tuple[str, str]]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    return [(f"p{index}", "".join(random.choice(list(RESIDUES), length))) for index, length in enumerate(lengths)]


@torch.no_grad()
def one_by_one(model, tokenizer, sequence, layer=-1, special=False):
    """What the encoder gives for one protein, through the tokenizer itself."""
    text = " ".join(sequence) if type(tokenizer).__name__ == "BertTokenizer" else sequence
    states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer][0]
    return (states if special else states[1:-1]).numpy()


def in_windows(model, tokenizer, sequence, size, overlap, layer=-1):
    """Residues of a long protein, the plain way: every residue is the mean over the windows that contain it."""
    starts = window_starts(len(sequence), size, overlap)
    states = {s: one_by_one(model, tokenizer, sequence[s : s + size], layer) for s in starts.tolist()}
    return np.stack(
        [
            np.mean([rows[residue - s] for s, rows in states.items() if s <= residue < s + size], axis=0)
            for residue in range(len(sequence))
        ]
    )


@pytest.mark.parametrize(
    "kind",
    ["bert", "esm", *(pytest.param(k, marks=pytest.mark.exhaustive) for k in ("roberta", "prot_bert", "modernbert"))],
)
def test_embeddings_are_those_of_every_protein_by_itself(encoders, kind):
    folder = encoders(kind)
    model, tokenizer = load_backbone(folder)
    model.eval()
    pairs = [*some_proteins(40, 90), ("same", "MKT"), ("same", "MKT")]
    alone = [one_by_one(model, tokenizer, sequence) for _, sequence in pairs]
    pooled = {
        "mean": [states.mean(axis=0) for states in alone],
        "max": [states.max(axis=0) for states in alone],
        "cls": [one_by_one(model, tokenizer, sequence, special=True)[0] for _, sequence in pairs],
    }
    for pooling, wanted in pooled.items():
        found = list(embed_proteins(folder, pairs, pooling=pooling, batch_tokens=300))
        assert [(protein.id, protein.length, protein.windows) for protein in found] == [
            (identifier, len(sequence), 1) for identifier, sequence in pairs
        ]
        np.testing.assert_allclose([protein.embedding for protein in found], wanted, atol=1e-5)
    residues = list(embed_proteins(model, pairs, tokenizer=tokenizer, per_residue=True, batch_tokens=300))
    for protein, wanted in zip(residues, alone, strict=True):
        np.testing.assert_allclose(protein.embedding, wanted, atol=1e-5)
        assert protein.embedding.dtype == np.float32


@pytest.mark.parametrize("kind, overlap", [("bert", None), ("esm", 3)])
def test_a_long_protein_is_the_mean_over_windows_that_overlap(encoders, kind, overlap):
    model, tokenizer = load_backbone(encoders(kind))
    model.eval()
    pairs = [("short", "MKTAY"), *some_proteins(4, 120, seed=1), ("short", "MKTAYIAK"), ("long", RESIDUES * 6)]
    size = 20
    wanted = [
        in_windows(model, tokenizer, sequence, size, 10 if overlap is None else overlap) for _, sequence in pairs
    ]
    options = {"tokenizer": tokenizer, "max_length": size + 2, "overlap": overlap, "batch_tokens": 100}
    for keep, of_residues in (
        ({"per_residue": True}, lambda states: states),
        ({}, lambda states: states.mean(axis=0)),
        ({"pooling": "max"}, lambda states: states.max(axis=0)),
    ):
        found = list(embed_proteins(model, pairs, **options, **keep))
        for protein, states, (identifier, sequence) in zip(found, wanted, pairs, strict=True):
            assert (protein.id, protein.length) == (identifier, len(sequence))
            assert protein.windows == len(window_starts(len(sequence), size, 10 if overlap is None else overlap))
            np.testing.assert_allclose(protein.embedding, of_residues(states), atol=1e-5)
    assert max(protein.windows for protein in found) > 5
    starts = window_starts(120, size, 10 if overlap is None else overlap)
    first_tokens = [one_by_one(model, tokenizer, (RESIDUES * 6)[s : s + size], special=True)[0] for s in starts]
    cls = list(embed_proteins(model, pairs[-1:], **options, pooling="cls"))[0]
    np.testing.assert_allclose(cls.embedding, np.mean(first_tokens, axis=0), atol=1e-5)


def test_layers_count_from_the_embeddings_or_from_the_end(bert):
    model, tokenizer = bert
    (pair,) = some_proteins(1, 40)
    for layer in (0, 1, 3, -1, -2, -4):
        (found,) = embed_proteins(model, [pair], tokenizer=tokenizer, layer=layer)
        wanted = one_by_one(model, tokenizer, pair[1], layer).mean(axis=0)
        np.testing.assert_allclose(found.embedding, wanted, atol=1e-5)


def test_bfloat16_is_near_float32_and_leaves_no_autocast_behind(bert):
    model, tokenizer = bert
    pairs = some_proteins(6, 50)
    exact = np.stack([p.embedding for p in embed_proteins(model, pairs, tokenizer=tokenizer)])
    rough = []
    for protein in embed_proteins(model, pairs, tokenizer=tokenizer, dtype="bf16"):
        assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        rough.append(protein.embedding)
    assert 0 < np.abs(np.stack(rough) - exact).max() < 0.05


def test_small_blocks_give_the_same_and_hold_few_proteins(bert, monkeypatch):
    model, tokenizer = bert
    pairs = some_proteins(30, 60)
    whole = list(embed_proteins(model, pairs, tokenizer=tokenizer))
    read = []

    def recorded():
        for pair in pairs:
            read.append(pair)
            yield pair

    monkeypatch.setitem(protein_embeddings._RESIDUES_PER_BLOCK, "cpu", 100)
    found = embed_proteins(model, recorded(), tokenizer=tokenizer)
    first = next(found)
    assert sum(len(sequence) for _, sequence in read[:-1]) <= 100  # one record more shows that the block is full
    for one, other in zip([first, *found], whole, strict=True):
        assert one.id == other.id
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)
    monkeypatch.setattr(protein_embeddings, "_BYTES_PER_BLOCK", 4 * 16 * 80)
    read.clear()
    next(embed_proteins(model, recorded(), tokenizer=tokenizer, per_residue=True))
    assert sum(len(sequence) for _, sequence in read[:-1]) <= 80


def test_titin_is_read_with_bounded_memory(bert):
    """A protein of 35,213 residues, in windows of 98: only its residues are held, and for a mean not even these."""
    model, tokenizer = bert
    titin = (RESIDUES * 1761)[:35_213]
    (protein,) = embed_proteins(model, [("titin", titin)], tokenizer=tokenizer, max_length=100)
    assert (protein.length, protein.windows) == (35_213, 718)
    (residues,) = embed_proteins(model, [("titin", titin)], tokenizer=tokenizer, max_length=100, per_residue=True)
    assert residues.embedding.shape == (35_213, 16)
    np.testing.assert_allclose(residues.embedding.mean(axis=0, dtype=np.float64), protein.embedding, atol=1e-5)


def test_files_are_read_and_records_without_residues_are_counted_in_a_warning(bert, tmp_path, caplog):
    model, tokenizer = bert
    (tmp_path / "a.fasta").write_text(">x\nMKT\n>empty\n\n>x\nmkta\n>none\nJJ\n")
    found = list(embed_proteins(model, tmp_path / "a.fasta", tokenizer=tokenizer))
    assert [(protein.id, protein.length) for protein in found] == [("x", 3), ("x", 4)]
    assert "a.fasta: left out 2 records, which have no residues; the first is 'empty' (empty sequence)." in caplog.text


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pooling": "sum"}, "pooling must be one of mean, cls, max, got 'sum'"),
        ({"pooling": "mean", "per_residue": True}, "pooling is mean, but per_residue keeps all residues"),
        ({"layer": 4}, "layer is 4, but must be 0 to 3 for this encoder, or -1 to -4 from the end"),
        ({"layer": -5}, "layer is -5, but must be 0 to 3"),
        ({"dtype": "int8"}, "dtype must be one of float32, fp32, bfloat16, bf16, got 'int8'"),
        ({"max_length": 513}, "max_length is 513, but the encoder has 512 positions"),
        ({"max_length": 2}, "max_length is 2, which leaves no room for a residue"),
        ({"max_length": 12, "overlap": 10}, "overlap is 10, but must be 0 to 9: a window has 10 residues"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"device": "abacus"}, "device is abacus, which cannot be used"),
        ({"tokenizer": None}, "its tokenizer is needed"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_computed(bert, options, words):
    model, tokenizer = bert
    with pytest.raises(ValueError, match=words):
        embed_proteins(model, [("a", "MKT")], **{"tokenizer": tokenizer, **options})


def test_cls_is_refused_without_a_token_before_the_protein(bert):
    model, tokenizer = bert
    cls, tokenizer.cls_token = tokenizer.cls_token, None
    try:
        with pytest.raises(
            ValueError, match="pooling is cls, but the tokenizer .* puts no cls token before a protein"
        ):
            embed_proteins(model, [("a", "MKT")], tokenizer=tokenizer, pooling="cls")
    finally:
        tokenizer.cls_token = cls


@pytest.mark.parametrize(
    "pairs, words",
    [
        ([("a", "MKT"), ("b", "")], "protein 1, 'b', has no residues \\(empty sequence\\)"),
        ([("a", None)], "a sequence must be text"),
        ([("a", "M", "K")], "protein 0 is .*, but must be a pair of id and sequence"),
        (iter(["MKT"]), "protein 0 is 'MKT', but must be a pair"),
    ],
)
def test_pairs_without_a_sequence_are_refused(bert, pairs, words):
    model, tokenizer = bert
    with pytest.raises(CorpusError, match=words):
        list(embed_proteins(model, pairs, tokenizer=tokenizer))


def test_an_output_that_is_not_finite_is_refused(encoders):
    model, tokenizer = load_backbone(encoders("bert"))
    torch.nn.init.constant_(model.encoder.layer[0].output.dense.bias, torch.nan)
    with pytest.raises(ValueError, match="output is not finite"):
        list(embed_proteins(model, [("a", "MKT")], tokenizer=tokenizer))
