"""Shared fixtures. No test needs the network, nor writes outside of pytest's own folders."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import temporary_folder

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = os.path.join(temporary_folder.take(), "hf")
# compiled code is kept from session to session
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "torchinductor"))
os.fsync = lambda handle: None  # only a machine without power loses what was not synced, and tests kill processes
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.environ["HF_HOME"]

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import BertForMaskedLM  # noqa: E402

from adversarial_mlm import NoiserConfig, NoiserModel, build_protein_tokenizer, presets  # noqa: E402
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary  # noqa: E402
from tests.helpers.foreign_encoders import BUILDERS  # noqa: E402
from tests.helpers.preloaded import Preloaded, preloaded  # noqa: E402

ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    """Every `train()` collects garbage, a third of a small run's time where all that is imported is looked through."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def later_imports_are_not_looked_through_either():
    """Tests import more of transformers as they run."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def sigint_reaches_the_tests():
    """A job in the background of a shell starts with SIGINT ignored, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Preloaded]:
    """Starts programs in processes of their own, without the time that their imports take."""
    with preloaded() as interpreter:
        yield interpreter


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def demo_fasta() -> Path:
    return ROOT / "examples" / "data" / "demo.fasta"


@pytest.fixture(scope="session")
def proteins(demo_fasta) -> list[str]:
    """Real proteins, 33 to 250 residues long."""
    records = demo_fasta.read_text().split("\n>")
    return ["".join(record.split("\n")[1:]) for record in records]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> str:
    """Where recipes keep their memory-mapped copies of proteins: tests of one session share them."""
    return str(tmp_path_factory.mktemp("proteins") / "cache")


@pytest.fixture(scope="session")
def tokenizer():
    return build_protein_tokenizer()


@pytest.fixture(scope="session")
def vocabulary(tokenizer) -> ResidueVocabulary:
    return ResidueVocabulary.from_tokenizer(tokenizer)


@pytest.fixture(scope="session")
def make_encoder():
    """A BERT of a few thousand parameters, the same one for the same seed."""

    def make(seed: int = 0, **overrides) -> BertForMaskedLM:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return BertForMaskedLM(presets.encoder_config("tiny", **{**sizes, **overrides}))

    return make


@pytest.fixture(scope="session")
def make_noiser(tokenizer):
    """A noiser of a few thousand parameters whose scores differ between positions, the same one for the same seed."""

    def make(seed: int = 0, **overrides) -> NoiserModel:
        torch.manual_seed(seed)
        sizes = {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 2}
        noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, **{**sizes, **overrides}))
        torch.nn.init.normal_(noiser.score.weight)
        return noiser

    return make


@pytest.fixture
def save_encoder(tmp_path):
    """Save an encoder with random weights and its tokenizer as somebody else would; `save("esm")` gives the folder."""

    def save(kind: str, **overrides) -> str:
        torch.manual_seed(0)
        model, tokenizer = BUILDERS[kind](tmp_path, **overrides)
        folder = str(tmp_path / kind)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save
