import json
import logging
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    EsmTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from adversarial_mlm.models.tokenization_protein import (
    AMBIGUOUS_RESIDUES,
    IGNORED_BYTE,
    STANDARD_RESIDUES,
    VOCABULARY,
    ByteTable,
    ResidueVocabulary,
    build_protein_tokenizer,
    save_tokenizer,
)
from adversarial_mlm.utils.errors import CorpusError

SPECIAL_TOKENS = {f"{kind}_token": f"<{kind}>" for kind in ("pad", "mask", "cls", "sep", "unk")}
PAD, MASK, CLS, SEP, UNK = range(5)


@pytest.fixture(scope="module")
def tokenizer():
    return build_protein_tokenizer()


@pytest.fixture(scope="module")
def table(tokenizer):
    return ByteTable.from_tokenizer(tokenizer)


def bare_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def rebuilt(vocabulary=VOCABULARY, backend_changes=None, **special_tokens):
    """A look-alike: our backend over another vocabulary or with one changed part, in the same class."""
    backend = Tokenizer.from_str(build_protein_tokenizer().backend_tokenizer.to_str())
    serialised = json.loads(backend.to_str())
    ids = {token: index for index, token in enumerate(vocabulary)}
    serialised["model"]["vocab"] = ids
    serialised["added_tokens"] = [
        token | {"id": ids[token["content"]]} for token in serialised["added_tokens"] if token["content"] in ids
    ]
    serialised["added_tokens"].sort(key=lambda token: token["id"])
    for token in serialised["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[token["id"]]]
    backend = Tokenizer.from_str(json.dumps(serialised))
    if backend_changes is not None:
        backend_changes(backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(special_tokens or SPECIAL_TOKENS))


class TestVocabulary:
    def test_ids_are_those_of_tape(self, tokenizer):
        expected = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<sep>": 3, "<unk>": 4, "A": 5, "B": 6, "C": 7, "D": 8}
        expected |= {"E": 9, "F": 10, "G": 11, "H": 12, "I": 13, "K": 14, "L": 15, "M": 16, "N": 17, "O": 18}
        expected |= {"P": 19, "Q": 20, "R": 21, "S": 22, "T": 23, "U": 24, "V": 25, "W": 26, "X": 27, "Y": 28, "Z": 29}
        assert tokenizer.get_vocab() == expected
        assert {token: index for index, token in enumerate(VOCABULARY)} == expected
        assert len(tokenizer) == 30

    def test_residues_and_special_tokens_partition_the_vocabulary(self):
        letters = STANDARD_RESIDUES + AMBIGUOUS_RESIDUES
        assert len(letters) == 25
        assert set(letters) == set(VOCABULARY[5:])

    def test_special_tokens_are_set(self, tokenizer):
        assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (PAD, MASK)
        assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id) == (CLS, SEP, UNK)


class TestTokenizer:
    def test_adds_cls_and_sep_and_returns_ids_and_attention_only(self, tokenizer):
        encoded = tokenizer("ACD")
        assert dict(encoded) == {"input_ids": [CLS, 5, 7, 8, SEP], "attention_mask": [1, 1, 1, 1, 1]}

    def test_pair(self, tokenizer):
        assert tokenizer("AC", "DE")["input_ids"] == [CLS, 5, 7, SEP, 8, 9, SEP]

    def test_upper_cases_and_ignores_ascii_white_space(self, tokenizer):
        assert tokenizer(" ac\tD\ne\r\nF\v\fg ")["input_ids"] == tokenizer("ACDEFG")["input_ids"]

    def test_unknown_characters_are_not_fused(self, tokenizer):
        assert bare_ids(tokenizer, "A--J*é蛋🧬C") == [5, *[UNK] * 7, 7]

    def test_one_token_per_character_whatever_the_length(self, tokenizer):
        sequence = "".join(random.Random(0).choices(VOCABULARY[5:], k=20_000))
        assert bare_ids(tokenizer, sequence) == [VOCABULARY.index(letter) for letter in sequence]

    @pytest.mark.parametrize("text", ["MK<mask>T", "MK <mask> T", "mk<mask>t"])
    def test_text_of_the_mask_is_the_mask(self, tokenizer, text):
        assert tokenizer(text)["input_ids"] == [CLS, 16, 14, MASK, 23, SEP]

    def test_padding_and_truncation_to_model_max_length(self):
        tokenizer = build_protein_tokenizer(model_max_length=6)
        encoded = tokenizer(["ACDEFGH", "AC"], padding="max_length", truncation=True)
        assert encoded["input_ids"] == [[CLS, 5, 7, 8, 9, SEP], [CLS, 5, 7, SEP, PAD, PAD]]
        assert encoded["attention_mask"] == [[1] * 6, [1, 1, 1, 1, 0, 0]]

    def test_model_max_length_defaults_to_512(self, tokenizer):
        assert tokenizer.model_max_length == 512
        assert len(tokenizer("A" * 600, truncation=True)["input_ids"]) == 512

    def test_model_max_length_must_leave_room_for_a_residue(self):
        with pytest.raises(ValueError, match="at least 3"):
            build_protein_tokenizer(model_max_length=2)

    def test_decodes_without_spaces(self, tokenizer):
        ids = tokenizer("MKTAY")["input_ids"]
        assert tokenizer.decode(ids) == "<cls>MKTAY<sep>"
        assert tokenizer.decode(ids, skip_special_tokens=True) == "MKTAY"
        assert tokenizer.batch_decode([ids, ids], skip_special_tokens=True) == ["MKTAY", "MKTAY"]

    def test_fill_mask_pipeline(self, tokenizer):
        config = BertConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
        guesses = pipeline("fill-mask", model=BertForMaskedLM(config), tokenizer=tokenizer)("MK<mask>T", top_k=30)
        assert {guess["token_str"] for guess in guesses} == set(VOCABULARY)
        guess = next(guess for guess in guesses if guess["token_str"] == "L")
        assert guess["sequence"] == "MKLT"


class TestSaving:
    @pytest.mark.exhaustive
    def test_loads_in_an_interpreter_without_this_package(self, tokenizer, tmp_path):
        texts = ["mkt AY", "A-J*C", "MK<mask>T", "é蛋"]
        save_tokenizer(tokenizer, tmp_path)
        # A checkpoint holds the encoder too: its model type must not bring in BERT's own tokenizer.
        BertConfig(vocab_size=30).save_pretrained(tmp_path)
        script = (
            "import json, sys\n"
            # An editable install puts the package on the path of every interpreter: hide it.
            "sys.modules['adversarial_mlm'] = None\n"
            "from transformers import AutoTokenizer\n"
            "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
            "encoded = tokenizer(json.loads(sys.argv[2]))\n"
            "print(json.dumps([dict(encoded), tokenizer.decode(encoded['input_ids'][0], skip_special_tokens=True),"
            " tokenizer.model_max_length]))"
        )
        result = subprocess.run(
            [sys.executable, "-I", "-c", script, str(tmp_path), json.dumps(texts)],
            cwd=tmp_path,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        encoded, decoded, model_max_length = json.loads(result.stdout.splitlines()[-1])
        assert encoded == dict(tokenizer(texts))
        assert decoded == "MKTAY"
        assert model_max_length == 512

    def test_the_saved_class_is_one_that_transformers_4_knows_too(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)  # as Transformers 5 has it
        of_transformers_5 = AutoTokenizer.from_pretrained(tmp_path)
        save_tokenizer(of_transformers_5, tmp_path)
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert type(again) is type(tokenizer) and again("mkt AY") == tokenizer("mkt AY")
        assert settings["model_input_names"] == again.model_input_names == ["input_ids", "attention_mask"]

    def test_a_tokenizer_with_a_class_of_its_own_keeps_it(self, esm_tokenizer, tmp_path):
        save_tokenizer(esm_tokenizer, tmp_path)
        assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "EsmTokenizer"

    def test_the_length_of_training_is_saved_and_the_tokenizer_stays_as_it_is(self, esm_tokenizer, tmp_path):
        before = esm_tokenizer.model_max_length
        save_tokenizer(esm_tokenizer, tmp_path, 64)
        assert esm_tokenizer.model_max_length == before != 64
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert again.model_max_length == 64 and len(again("A" * 99, truncation=True)["input_ids"]) == 64

    def test_saved_files_name_no_code(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        text = "".join(path.read_text() for path in tmp_path.iterdir())
        assert "auto_map" not in text
        assert "adversarial_mlm" not in text


def write_vocabulary(folder, tokens) -> str:
    (folder / "vocab.txt").write_text("\n".join(tokens))
    return str(folder / "vocab.txt")


@pytest.fixture
def esm_tokenizer(tmp_path):
    """ESM's own class, which is not a fast one, over a vocabulary in ESM's order."""
    letters = "LAGVSERTIDPKQNFYMHWCXBUZO"
    return EsmTokenizer(write_vocabulary(tmp_path, ["<cls>", "<pad>", "<eos>", "<unk>", *letters, ".", "-", "<mask>"]))


@pytest.fixture
def prot_bert_tokenizer(tmp_path):
    """BERT's own class over ProtBert's vocabulary: a protein without spaces is one word, and an unknown one."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(write_vocabulary(tmp_path, [*special, *"LAGVESIKRDTPNQFYMHCWXUBZO"]), do_lower_case=False)


class TestByteTable:
    def test_entries(self, table):
        assert table.ids.shape == (256,) and not table.ids.flags.writeable
        assert table.ids[ord("A")] == table.ids[ord("a")] == 5
        assert {chr(byte) for byte in np.flatnonzero(table.ids == IGNORED_BYTE)} == set(" \t\n\r\v\f")
        assert (table.prefix, table.suffix, table.spaced) == ((CLS,), (SEP,), False)

    def test_the_result_is_a_vector_of_its_own(self, table):
        ids = table.encode("ACD")
        assert ids.dtype == np.int64 and ids.tolist() == [5, 7, 8]
        ids[0] = MASK
        assert table.encode("ACD").tolist() == [5, 7, 8]

    @pytest.mark.parametrize("empty", ["", " ", "\n\t\r\n"])
    def test_empty(self, tokenizer, table, empty):
        assert table.encode(empty).shape == (0,)
        assert bare_ids(tokenizer, empty) == []

    @pytest.mark.parametrize("frame", ["{}", "A{}C", "{0}{0}", "a{} c"])
    def test_agrees_with_the_tokenizer_on_every_byte(self, tokenizer, table, frame):
        texts = [frame.format(chr(byte)) for byte in range(256)]
        assert [table.encode(text).tolist() for text in texts] == bare_ids(tokenizer, texts)

    @pytest.mark.parametrize("character", ["Ā", "ı", "ſ", "Ａ", "蛋", "\u2028", "\u00a0", "🧬", "e\u0301", "\u200b"])
    def test_agrees_with_the_tokenizer_beyond_latin_1(self, tokenizer, table, character):
        text = f"A{character}C"
        assert table.encode(text).tolist() == bare_ids(tokenizer, text)
        assert table.encode(text).tolist().count(UNK) == sum(ord(c) > 127 for c in character)

    def test_lone_surrogate_is_unknown(self, table):
        assert table.encode("A\ud800C").tolist() == [5, UNK, 7]

    @pytest.mark.parametrize("value", [None, b"MKV", ["M", "K"], float("nan")])
    def test_a_sequence_that_is_not_text_is_refused(self, table, value):
        with pytest.raises(CorpusError, match="a sequence must be text, but is "):
            table.encode(value)

    def test_agrees_with_the_tokenizer_on_random_text(self, tokenizer, table):
        rng = random.Random(0)
        alphabet = "".join(VOCABULARY[5:]) * 3 + "acdxz \n\tJj*-.?é蛋"
        texts = ["".join(rng.choices(alphabet, k=rng.randrange(400))) for _ in range(200)]
        assert [table.encode(text).tolist() for text in texts] == bare_ids(tokenizer, texts)

    def test_agrees_with_every_tokenizer_on_real_proteins(
        self, tokenizer, esm_tokenizer, prot_bert_tokenizer, proteins
    ):
        for other, separator in ((tokenizer, ""), (esm_tokenizer, ""), (prot_bert_tokenizer, " ")):
            table = ByteTable.from_tokenizer(other)
            encoded = [[*table.prefix, *table.encode(protein), *table.suffix] for protein in proteins[:200]]
            assert encoded == other([separator.join(protein) for protein in proteins[:200]])["input_ids"]

    def test_knows_which_tokenizer_needs_spaces(self, esm_tokenizer, prot_bert_tokenizer):
        assert not ByteTable.from_tokenizer(esm_tokenizer).spaced
        assert ByteTable.from_tokenizer(prot_bert_tokenizer).spaced

    def test_special_tokens_are_plain_characters(self, tokenizer, table):
        assert table.encode("<mask>").tolist() == [UNK, 16, 5, 22, 14, UNK]
        assert bare_ids(tokenizer, "<mask>") == [MASK]

    def test_a_character_that_is_a_special_token_is_unknown_in_a_file(self):
        tokenizer = rebuilt(["-", *VOCABULARY[1:]], **SPECIAL_TOKENS | {"pad_token": "-"})
        assert ByteTable.from_tokenizer(tokenizer).encode("A-C").tolist() == [5, UNK, 7]

    def test_the_order_of_the_vocabulary_is_the_tokenizers(self):
        swapped = list(VOCABULARY)
        swapped[5], swapped[7] = swapped[7], swapped[5]
        assert ByteTable.from_tokenizer(rebuilt(swapped)).encode("ABC").tolist() == [7, 6, 5]

    @pytest.mark.parametrize("pair", ["LL", "WZ", "OA"])
    def test_a_tokenizer_that_has_merged_two_residues_is_refused(self, pair):
        tokenizer = build_protein_tokenizer()
        tokenizer.add_tokens([pair])
        with pytest.raises(ValueError, match="does not read one residue as one token"):
            ByteTable.from_tokenizer(tokenizer)

    def test_a_tokenizer_of_words_is_refused(self):
        tokenizer = rebuilt()
        tokenizer.backend_tokenizer.model = models.WordLevel(
            {token: index for index, token in enumerate(VOCABULARY)}, unk_token="<unk>"
        )
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
        with pytest.raises(ValueError, match="does not read one residue as one token"):
            ByteTable.from_tokenizer(tokenizer)

    def test_a_tokenizer_that_swallows_a_residue_is_refused(self):
        def without_a(backend):
            backend.normalizer = normalizers.Replace("A", "")

        with pytest.raises(ValueError, match="does not encode the residue A"):
            ByteTable.from_tokenizer(rebuilt(backend_changes=without_a))

    def test_a_tokenizer_without_an_unknown_token_is_refused(self):
        with pytest.raises(ValueError, match="no unk token"):
            ByteTable.from_tokenizer(rebuilt(pad_token="<pad>", mask_token="<mask>"))

    def test_survives_pickling(self, table):
        copy = pickle.loads(pickle.dumps(table))
        assert copy == table and copy.encode("ACD").tolist() == [5, 7, 8]


class TestResidueVocabulary:
    def test_of_our_tokenizer(self, tokenizer):
        vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
        assert vocabulary.vocab_size == 30
        assert (vocabulary.pad_token_id, vocabulary.mask_token_id, vocabulary.unk_token_id) == (PAD, MASK, UNK)
        assert vocabulary.replacement_ids == tuple(VOCABULARY.index(letter) for letter in STANDARD_RESIDUES)
        assert sorted(vocabulary.residue_ids) == list(range(5, 30))
        assert vocabulary.residue_ids[:20] == vocabulary.replacement_ids
        assert vocabulary.residue_letters == {index: VOCABULARY[index] for index in range(5, 30)}

    def test_of_esm(self, esm_tokenizer):
        vocabulary = ResidueVocabulary.from_tokenizer(esm_tokenizer)
        assert vocabulary.vocab_size == len(esm_tokenizer) == 32
        assert (vocabulary.pad_token_id, vocabulary.mask_token_id, vocabulary.unk_token_id) == (1, 31, 3)
        assert sorted(vocabulary.residue_ids) == list(range(4, 29))
        assert vocabulary.replacement_ids[0] == esm_tokenizer.convert_tokens_to_ids("A") == 5

    def test_ambiguous_residues_count_only_where_they_are_tokens(self):
        vocabulary = ResidueVocabulary.from_tokenizer(rebuilt([*VOCABULARY[:5], "X", *STANDARD_RESIDUES]))
        assert vocabulary.vocab_size == 26
        assert vocabulary.residue_ids == (*range(6, 26), 5)
        assert vocabulary.residue_letters[5] == "X"

    def test_added_tokens_count_in_vocab_size(self):
        tokenizer = build_protein_tokenizer()
        tokenizer.add_tokens(["1", "2"])
        assert ResidueVocabulary.from_tokenizer(tokenizer).vocab_size == 32

    def test_unknown_token_is_optional(self):
        tokenizer = rebuilt(pad_token="<pad>", mask_token="<mask>")
        assert ResidueVocabulary.from_tokenizer(tokenizer).unk_token_id is None

    @pytest.mark.parametrize("kind", ["mask", "pad"])
    def test_missing_special_token(self, kind):
        special_tokens = {name: token for name, token in SPECIAL_TOKENS.items() if name != f"{kind}_token"}
        with pytest.raises(ValueError, match=f"no {kind} token"):
            ResidueVocabulary.from_tokenizer(rebuilt(**special_tokens))

    @pytest.mark.parametrize("missing", ["A", "WY"])
    def test_missing_standard_residue_is_named(self, missing):
        tokenizer = rebuilt([token for token in VOCABULARY if token not in missing])
        with pytest.raises(ValueError, match=rf"residue\(s\) {', '.join(missing)}\."):
            ResidueVocabulary.from_tokenizer(tokenizer)

    def test_is_frozen_hashable_and_survives_pickling(self, tokenizer):
        vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
        with pytest.raises(AttributeError):
            vocabulary.vocab_size = 31
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert copy == vocabulary
        assert hash(copy) == hash(vocabulary)


def test_a_short_model_max_length_is_no_matter_of_the_look_at_a_tokenizer(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = build_protein_tokenizer(model_max_length=3)
    with caplog.at_level("WARNING"):
        ByteTable.from_tokenizer(tokenizer)
    assert not caplog.messages
