"""Find the shards of a source: files, folders written by `datasets`, and Hub datasets."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, IterableDataset

from adversarial_mlm.data.formats import Columns, Shard, resolve_columns
from adversarial_mlm.data.text_files import COMPRESSED_ENDINGS, without_compression
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten
from adversarial_mlm.utils.hub_address import host_without_address

_FORMATS = dict.fromkeys((".fasta", ".fa", ".faa", ".fas", ".fsa"), "fasta")
_FORMATS |= {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MAX_DATASET_SHARDS = 64


def source_names(source: Any) -> list[str]:
    """Return the names in a source, which is one name or path or several; `~` is expanded.

    Raises:
        [`CorpusError`]: If there is none, or if one is empty or something else.
    """
    given = [source] if isinstance(source, str | os.PathLike) or not isinstance(source, Iterable) else source
    names = []
    for item in given:
        if not isinstance(item, str | os.PathLike):
            raise CorpusError(
                f"the source contains {shorten(str(item)[:200])}, but must be a file, a folder, a pattern or the name "
                "of a Hub dataset."
            )
        names.append(os.path.expanduser(os.fspath(item)))
    if not names or not all(names):
        raise CorpusError("the source is empty: give a file, a folder, a pattern or the name of a Hub dataset.")
    return names


def find_shards(
    sources: list[str], columns: Columns, config: str | None, split: str, streaming: bool, cache_dir: str | None
) -> tuple[list[Shard], Columns]:
    """Return the shards of a source, and the columns to read."""
    name = sources[0]
    if len(sources) == 1 and (os.path.isdir(name) or _is_hub_name(name)):
        dataset = _load_dataset(name, config, split, streaming, cache_dir)
        columns = resolve_columns(name, columns, _column_names(name, dataset))
        return _dataset_shards(name, dataset, streaming), columns
    shards = file_shards(sources)
    if shards[0].format == "fasta":
        return shards, Columns()
    _refuse_option("dataset_config", config, None, f"{shards[0].name} is a file")
    _refuse_option("dataset_split", split, "train", f"{shards[0].name} is a file")
    return shards, columns


def _column_names(name: str, dataset: Dataset | IterableDataset) -> list[str]:
    if dataset.column_names:
        return list(dataset.column_names)
    try:  # without declared features, the columns of a stream are only in its records
        return list(next(iter(dataset), {}))
    except Exception as error:  # network and format errors have many classes
        raise CorpusError(f"{name}: its first record could not be read ({one_line(error)}).") from error


def _refuse_option(option: str, value: Any, default: Any, reason: str) -> None:
    if value != default:
        raise CorpusError(f"{option}={value!r} does not apply here, because {reason}: remove it.")


def file_shards(sources: list[str]) -> list[Shard]:
    """Expand patterns (sorted), and check that all files exist, occur once and have one known format."""
    shards: list[Shard] = []
    seen: set[str] = set()
    for item in sources:
        paths = [item] if os.path.isfile(item) else sorted(filter(os.path.isfile, glob.glob(item, recursive=True)))
        if not paths:
            raise CorpusError(
                f"{item}: there is no such file, and no file matches it as a pattern. For the files in a folder, give "
                "a pattern such as folder/*.fasta."
            )
        for path in paths:
            file_format = _file_format(path)
            if file_format is None:
                raise CorpusError(
                    f"{path}: the ending of the name is not that of a known format ({', '.join(_FORMATS)}; all but "
                    f".parquet also with {', '.join(COMPRESSED_ENDINGS)}): rename or convert the file."
                )
            shards.append(Shard(len(shards), path, file_format))
            if file_format != shards[0].format:
                raise CorpusError(
                    f"{path}: is {file_format}, but {shards[0].name} is {shards[0].format}: all files must be of "
                    "one format."
                )
            if os.path.realpath(path) in seen:
                raise CorpusError(f"{path}: the file occurs more than once in the source: name it once.")
            seen.add(os.path.realpath(path))
    return shards


def _file_format(path: str) -> str | None:
    name = without_compression(path)
    if name.endswith(".parquet") and len(name) < len(path):  # Parquet has its own compression
        return None
    return _FORMATS.get(os.path.splitext(name)[1])


def _is_hub_name(name: str) -> bool:
    # a name with the ending of a data file is a missing file, not a Hub dataset
    return not os.path.exists(name) and _HUB_NAME.fullmatch(name) is not None and _file_format(name) is None


def _load_dataset(
    name: str, config: str | None, split: str, streaming: bool, cache_dir: str | None
) -> Dataset | IterableDataset:
    if os.path.isdir(name):
        _refuse_option("dataset_config", config, None, f"{name} is a folder")
        return _load_folder(name, split)
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
    host = None if any(cache.glob(f"{name.split('/')[0]}___*")) else host_without_address()
    if host is not None:
        raise CorpusError(
            f"{name}: no file or folder of this name exists, and {host} cannot be found to look for it on the Hub: "
            "check the name, or the network."
        )
    try:
        return datasets.load_dataset(name, config, split=split, streaming=streaming, cache_dir=cache_dir)
    except Exception as error:  # network, authentication, name, split and format errors have many classes
        raise CorpusError(
            f"{name}: no file or folder of this name exists, and it could not be loaded as a Hub dataset (config "
            f"{config!r}, split {split!r}; {type(error).__name__}: {one_line(error)})."
        ) from error


def _load_folder(path: str, split: str) -> Dataset:
    try:
        dataset = datasets.load_from_disk(path)
    except Exception as error:  # other or damaged folders raise errors of many classes
        raise CorpusError(
            f"{path}: could not be loaded as a folder written by save_to_disk ({one_line(error)}). For the files in "
            f"it, give a pattern such as {os.path.join(path, '*.fasta')}."
        ) from error
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise CorpusError(f"{path}: there is no split {split!r} (dataset_split): choose one of {list(dataset)}.")
        return dataset[split]
    if split != str(dataset.split):
        _refuse_option("dataset_split", split, "train", f"{path} contains a single dataset")
    return dataset


def _dataset_shards(name: str, dataset: Dataset | IterableDataset, streaming: bool) -> list[Shard]:
    if isinstance(dataset, IterableDataset):
        parts = [dataset.shard(dataset.num_shards, index) for index in range(dataset.num_shards)]
        # the number of rows before a streamed shard is unknown, so ids also contain its index
        return [Shard(index, name, "dataset", part, id_prefix=f"{index}-") for index, part in enumerate(parts)]
    if len(dataset) == 0:
        raise CorpusError(f"{name}: the dataset contains no records.")
    number = min(_MAX_DATASET_SHARDS, -(-len(dataset) // 1000)) if streaming else 1
    starts = [len(dataset) * index // number for index in range(number + 1)]
    parts = [dataset.select(range(*bounds)) for bounds in zip(starts, starts[1:], strict=False)]
    return [Shard(index, name, "dataset", part, starts[index]) for index, part in enumerate(parts)]
