"""Every way in for protein sequences: files, folders and Hub datasets become one clean, counted corpus.

[`load_corpus`] reads FASTA, Parquet, JSON, CSV and TSV files, folders written by `datasets`, and Hub datasets, and
returns rows with three columns: `id` (string), `sequence` (string, clean) and `length` (int32, in residues).
[`split_corpus`] holds out whole protein families, members of the remaining families, or random records.

Nothing is repaired or dropped without being counted in [`CleaningCounts`], and every complaint about the input is a
[`CorpusError`] whose message names the file and, where it is known, the record or line.

[`prepare_corpus`] cleans large FASTA files once, by several processes, into a folder that `load_corpus` reads.

Inside, a module imports only from those above it: `cleaning` (one sequence, the counts), `reading` (formats),
`sources` (files, folders, the Hub), `rows` (one shard), `tables` (Arrow files), `subsets` (what is kept of whole
corpora), `streaming`, `prepared` and `preparing` (folders), `loading`, `splits` (held-out data).
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
