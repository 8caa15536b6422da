"""Read protein sequences from files, folders and the Hub into one clean corpus, and count what cleaning did.

[`load_corpus`] reads FASTA, Parquet, JSON, CSV and TSV files, folders written by `datasets`, and Hub datasets, and
returns rows with three columns: `id` (string), `sequence` (string, clean) and `length` (int32, in residues).
[`split_corpus`] holds out whole protein families, members of the remaining families, or random records.

[`prepare_corpus`] cleans large FASTA files once, with several processes, into a folder that `load_corpus` reads.

[`CleaningCounts`] counts every repaired or dropped record. Invalid input raises [`CorpusError`], whose message names
the file and, if known, the record or line.

Each module imports only from those above it:

- `cleaning`: one sequence, and the counts;
- `text_files`: lines of plain and compressed files; `tables`: rows of CSV, records of JSON, columns by name;
- `formats`: readers of FASTA, CSV, JSON, Parquet; `sources`: files, folders, the Hub;
- `shards`: one shard; `arrow_tables`: Arrow files; `subsets`: subsets of corpora, and the cache;
- `streaming`; `prepared` and `prepare`: prepared folders; `load`: [`load_corpus`];
- `splits`: held-out data.

`order`, `stream_order` and `length_chunks` decide the order of training data and cut batches.
"""

from adversarial_mlm.data.cleaning import CleanedSequence, CleaningCounts, clean_sequence
from adversarial_mlm.data.load import Corpus, load_corpus
from adversarial_mlm.data.prepare import prepare_corpus
from adversarial_mlm.data.splits import Splits, read_cluster_table, remove_shared_sequences, split_corpus
from adversarial_mlm.data.subsets import count_lengths
from adversarial_mlm.utils.errors import CorpusError

__all__ = [
    "CleanedSequence",
    "CleaningCounts",
    "Corpus",
    "CorpusError",
    "Splits",
    "clean_sequence",
    "count_lengths",
    "load_corpus",
    "prepare_corpus",
    "read_cluster_table",
    "remove_shared_sequences",
    "split_corpus",
]
