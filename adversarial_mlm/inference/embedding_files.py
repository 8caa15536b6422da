"""Files of embeddings: parts in Arrow format, which are joined into one Parquet, NumPy or HDF5 file.

All three formats hold the same. A protein has an id, a length in residues, a number of windows, and an embedding. In
NumPy and HDF5 files the embeddings of residues are one array, and `offsets` tells where each protein begins.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import RecipeError, shorten
from adversarial_mlm.utils.extras import require

OUTPUT_DTYPES: dict[str, np.dtype] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}
ABOUT = "about"
"""Name of the text with the facts about a file, in JSON."""

_ROW_GROUP_BYTES = 64 << 20
_FACTS_OF_PART = b"part"


@dataclass(frozen=True)
class Layout:
    """What the embeddings of a file look like.

    Attributes:
        width (`int`): Numbers in an embedding.
        per_residue (`bool`): Whether each residue has one.
        dtype (`str`): `"float32"` or `"float16"`.
    """

    width: int
    per_residue: bool
    dtype: str

    def schema(self) -> pa.Schema:
        """The columns of a table."""
        vector = pa.list_(pa.from_numpy_dtype(OUTPUT_DTYPES[self.dtype]), self.width)
        return pa.schema(
            {
                "id": pa.string(),
                "length": pa.int64(),
                "windows": pa.int64(),
                "embedding": pa.large_list(vector) if self.per_residue else vector,
            }
        )


@dataclass(frozen=True)
class PartFacts:
    """Facts about a part: proteins, residues, letters of the longest id, and the records that were left out."""

    proteins: int
    residues: int
    longest_id: int
    left_out: list[list]


def format_of(path: str | os.PathLike) -> str:
    """Return the format of a file by the ending of its name: `"parquet"`, `"npz"` or `"h5"`.

    Raises:
        RecipeError: If the ending is another one.
        MissingPackageError: If the file is HDF5, and h5py is not installed.
    """
    ending = Path(path).suffix.lower()
    found = {".parquet": "parquet", ".npz": "npz", ".h5": "h5", ".hdf5": "h5"}.get(ending)
    if found is None:
        raise RecipeError(f"out is {path}, but its name must end in .parquet, .npz, .h5 or .hdf5")
    if found == "h5":
        require("h5py", "hdf5", f"writing {path}")
    return found


def write_part(
    path: Path,
    layout: Layout,
    ids: Sequence[str],
    embeddings: Sequence[np.ndarray],
    lengths: Sequence[int],
    windows: Sequence[int],
    left_out: list[list],
) -> PartFacts:
    """Write a part atomically, and return the facts about it.

    Args:
        path (`Path`): The file.
        layout ([`Layout`]): Of the whole.
        ids (`Sequence[str]`): Ids of the proteins.
        embeddings (`Sequence[np.ndarray]`): float32, `(width,)` or `(residues, width)` each.
        lengths (`Sequence[int]`), windows (`Sequence[int]`): Residues and windows of each protein.
        left_out (`list[list]`): Number (from 1), id and reason of the records without residues.

    Raises:
        RecipeError: If a number is too large for float16.
        OSError: If the file cannot be written.
    """
    facts = PartFacts(len(ids), sum(lengths), max(map(len, ids), default=0), left_out)
    flat = np.concatenate([e.reshape(-1) for e in embeddings]) if len(ids) else np.zeros(0, dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(_as_dtype(flat, layout, ids, embeddings)), layout.width)
    if layout.per_residue:
        vectors = pa.LargeListArray.from_arrays(np.cumsum([0, *lengths]), vectors)
    columns = [pa.array(ids, pa.string()), pa.array(lengths, pa.int64()), pa.array(windows, pa.int64()), vectors]
    table = pa.Table.from_arrays(columns, schema=layout.schema().with_metadata({_FACTS_OF_PART: _json(vars(facts))}))
    with atomic_files.replacing_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return facts


def _as_dtype(flat: np.ndarray, layout: Layout, ids: Sequence[str], embeddings: Sequence[np.ndarray]) -> np.ndarray:
    largest = np.finfo(OUTPUT_DTYPES[layout.dtype]).max
    if flat.size and np.abs(flat).max() > largest:
        owner = next(i for i, embedding in zip(ids, embeddings, strict=True) if np.abs(embedding).max() > largest)
        raise RecipeError(
            f"output_dtype is {layout.dtype}, but the embedding of {shorten(owner)} has numbers above {largest:,.0f}: "
            "use float32"
        )
    return flat.astype(OUTPUT_DTYPES[layout.dtype], copy=False)


def read_facts(path: Path) -> PartFacts | None:
    """Return the facts about a part; `None` if it is missing or damaged."""
    try:
        with pa.OSFile(str(path)) as file:
            return PartFacts(**json.loads(pa.ipc.open_file(file).schema.metadata[_FACTS_OF_PART]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _tables(paths: Iterable[Path]) -> Iterator[pa.Table]:
    for path in paths:
        with pa.memory_map(str(path)) as file:
            yield pa.ipc.open_file(file).read_all()


def join_parts(out: Path, layout: Layout, paths: Sequence[Path], facts: Sequence[PartFacts], about: dict) -> None:
    """Join parts into one file, atomically. Memory holds one part, or a row group of a Parquet file.

    Args:
        out (`Path`): The file; the ending of its name is its format.
        layout ([`Layout`]): Of the parts.
        paths (`Sequence[Path]`): The parts, in their order.
        facts (`Sequence[PartFacts]`): The facts about each.
        about (`dict`): Facts about the whole, as plain values for JSON.

    Raises:
        WritingError: If the file cannot be written.
    """
    write = {"parquet": _join_parquet, "npz": _join_npz, "h5": _join_h5}[format_of(out)]
    with atomic_files.replacing_files(str(out.parent)) as folder:
        write(Path(folder, out.name), layout, paths, facts, _json(about))


def _join_parquet(out: Path, layout: Layout, paths: Sequence[Path], facts: Sequence[PartFacts], about: str) -> None:
    schema = layout.schema().with_metadata({ABOUT: about})
    # numbers of embeddings rarely repeat, so a dictionary of them costs time and gains nothing
    with pq.ParquetWriter(out, schema, use_dictionary=False, compression="zstd", compression_level=1) as writer:
        group: list[pa.Table] = []
        for table in _tables(paths):
            group.append(table.cast(schema))
            if sum(part.nbytes for part in group) >= _ROW_GROUP_BYTES:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))


def _columns(layout: Layout, facts: Sequence[PartFacts]) -> dict[str, tuple[tuple[int, ...], np.dtype, Callable]]:
    """Shape, type and reader of every array of a NumPy or HDF5 file but for the ids."""
    proteins, residues = sum(part.proteins for part in facts), sum(part.residues for part in facts)
    columns: dict[str, tuple[tuple[int, ...], np.dtype, Callable]] = {
        "embeddings": (
            (residues if layout.per_residue else proteins, layout.width),
            OUTPUT_DTYPES[layout.dtype],
            lambda table: _vectors(table, layout),
        ),
        "lengths": ((proteins,), np.dtype(np.int64), lambda table: table["length"].to_numpy()),
        "windows": ((proteins,), np.dtype(np.int64), lambda table: table["windows"].to_numpy()),
    }
    return columns


def _vectors(table: pa.Table, layout: Layout) -> np.ndarray:
    found = table["embedding"].combine_chunks()
    found = found.flatten() if layout.per_residue else found
    return found.flatten().to_numpy(zero_copy_only=False).reshape(-1, layout.width)


def _offsets(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    """Yield the first residue of every protein, and at last the number of residues."""
    start = np.zeros(1, dtype=np.int64)
    yield start
    for table in _tables(paths):
        if table.num_rows:
            ends = start + table["length"].to_numpy().cumsum()
            yield ends
            start = ends[-1:]


def _join_npz(out: Path, layout: Layout, paths: Sequence[Path], facts: Sequence[PartFacts], about: str) -> None:
    proteins = sum(part.proteins for part in facts)
    ids = np.dtype(f"<U{max(1, *(part.longest_id for part in facts))}")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def write(
            name: str, shape: tuple[int, ...], dtype: np.dtype, arrays: Iterable[np.ndarray], **how: Any
        ) -> None:
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = how.get("compression", zipfile.ZIP_STORED)
            with archive.open(info, "w", force_zip64=True) as member:
                _write_header(member, shape, dtype)
                for array in arrays:
                    member.write(np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(-1).view(np.uint8).data)

        for name, (shape, dtype, read) in _columns(layout, facts).items():
            write(name, shape, dtype, map(read, _tables(paths)))
        texts = (np.array(table["id"].to_pylist(), dtype=ids) for table in _tables(paths))
        # every id takes the room of the longest one
        write("ids", (proteins,), ids, texts, compression=zipfile.ZIP_DEFLATED)
        if layout.per_residue:
            write("offsets", (proteins + 1,), np.dtype(np.int64), _offsets(paths))
        text = np.array(about)
        write(ABOUT, (), text.dtype, [text], compression=zipfile.ZIP_DEFLATED)


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)


def _join_h5(out: Path, layout: Layout, paths: Sequence[Path], facts: Sequence[PartFacts], about: str) -> None:
    h5py = require("h5py", "hdf5", f"writing {out}")
    proteins = sum(part.proteins for part in facts)
    with h5py.File(out, "w") as file:

        def write(name: str, shape: tuple[int, ...], dtype: Any, arrays: Iterable[Any]) -> None:
            dataset, row = file.create_dataset(name, shape, dtype), 0
            for array in arrays:
                if len(array):
                    dataset[row : row + len(array)] = array
                    row += len(array)

        for name, (shape, dtype, read) in _columns(layout, facts).items():
            write(name, shape, dtype, map(read, _tables(paths)))
        write("ids", (proteins,), h5py.string_dtype(), (table["id"].to_pylist() for table in _tables(paths)))
        if layout.per_residue:
            write("offsets", (proteins + 1,), np.int64, _offsets(paths))
        file.create_dataset(ABOUT, data=about, dtype=h5py.string_dtype())


def _json(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False)
