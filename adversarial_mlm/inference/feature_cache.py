"""Cache of features on disk. The file name is a hash of everything that the features depend on."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.constants import HF_HOME
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.models.tokenization_protein import ByteTable
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.hashing import array_checksum, fingerprint_of_parts

logger = logging.getLogger(__name__)

# Raise it when the same encoder and sequences give other features.
FEATURES_VERSION = 1

# entries of a configuration that do not describe the network
_NOT_THE_NETWORK = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


def default_cache_dir() -> str:
    """Return the default folder: `adversarial_mlm/features` below `HF_HOME`."""
    return os.path.join(os.path.expanduser(HF_HOME), "adversarial_mlm", "features")


def encoder_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the weights, the configuration and the tokens of residues to 32 hexadecimal digits."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_THE_NETWORK}
    table = ByteTable.from_tokenizer(tokenizer)

    def parts() -> Iterator[str | bytes | memoryview]:
        yield json.dumps([type(model).__name__, config], sort_keys=True, default=str)
        yield json.dumps([table.prefix, table.suffix, tokenizer.pad_token_id])
        yield table.ids.tobytes()
        for name, tensor in sorted(model.state_dict().items()):
            yield f"{name} {tuple(tensor.shape)} {tensor.dtype} "
            yield tensor.detach().cpu().float().contiguous().numpy().data

    return fingerprint_of_parts(parts())


class FeatureCache:
    """Arrays on disk: memory-mapped `.npy` files, each with a `.json` file that holds its checksum.

    Args:
        folder (`str`, *optional*): Folder of the cache; by default [`default_cache_dir`]. If the default cannot be
            written, a warning is logged and nothing is cached.

    Attributes:
        hits, misses (`int`): Number of arrays found, and of arrays computed.

    Raises:
        [`CorpusError`]: If `folder` is given and cannot be written.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        self.folder: Path | None = Path(os.path.expanduser(folder or default_cache_dir()))
        self.hits = self.misses = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            if folder:
                raise CorpusError(
                    f"feature_cache_dir {folder} cannot be written ({error.strerror or error}): choose another folder."
                ) from error
            logger.warning(
                "%s cannot be written (%s): features are not cached; set feature_cache_dir to a folder that can.",
                self.folder,
                error.strerror or error,
            )
            self.folder = None

    def get(self, key: dict[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of a key from disk; if it is missing or damaged, compute and store it.

        Args:
            key (`dict`): Everything that the array depends on, as plain values for JSON.
            compute (`Callable`): Function that computes the array.
        """
        if self.folder is None:
            self.misses += 1
            return compute()
        text = json.dumps({**key, "version": FEATURES_VERSION}, sort_keys=True)
        path = self.folder / f"{fingerprint_of_parts([text])}.npy"
        found = _read(path)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        array = compute()
        try:
            _write(path, array, text)
        except OSError as error:  # a full disk must not lose the computed features
            logger.warning("%s: features could not be cached (%s).", self.folder, error.strerror or error)
        return array


def _read(path: Path) -> np.ndarray | None:
    facts = path.with_suffix(".json")
    if not path.exists() or not facts.exists():
        return None
    try:
        wanted = json.loads(facts.read_text(encoding="utf-8"))["sha256"]
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array_checksum(array) == wanted:
            return array
    except (OSError, ValueError, KeyError, TypeError):
        pass
    logger.warning("%s is damaged: its features are computed again.", path)
    return None


def _write(path: Path, array: np.ndarray, key: str) -> None:
    checksum = array_checksum(array)
    facts = {"sha256": checksum, "shape": list(array.shape), "dtype": str(array.dtype), "key": json.loads(key)}
    with atomic_files.replacing_file(path) as file:
        np.save(file, array, allow_pickle=False)
    atomic_files.replace_text(path.with_suffix(".json"), json.dumps(facts, indent=1))
