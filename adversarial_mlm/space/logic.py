"""What the page answers to a protein: HTML for each of its tabs. It needs no browser and no Gradio."""

import base64
import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from adversarial_mlm.inference.mask_comparison import compare_masks
from adversarial_mlm.inference.mask_view import MaskView, view_masks
from adversarial_mlm.inference.masked_answers import answers_if_masked
from adversarial_mlm.inference.mutant_tables import SATURATION_COLUMNS, saturation_matrix, saturation_rows
from adversarial_mlm.inference.reads import Progress
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.reports import drawing, score_plots
from adversarial_mlm.space import tracks
from adversarial_mlm.space.networks import NetworkStore
from adversarial_mlm.space.pasted import read_positions, read_protein, write_positions
from adversarial_mlm.utils.errors import CorpusError, one_line

_LARGEST_SEED = 2**31 - 1
_MOST_NAMED = 5  # substitutions in words
_HINT = (
    '<p class="amlm-summary">No residue is masked by you. Choose residues above, or write their positions, and see '
    "what the encoder answers there.</p>"
)


@dataclass(frozen=True)
class Shown:
    """The protein that the first tab shows, and the model that answers there."""

    model: str
    view: MaskView


class PageLogic:
    """Answers of the page. Each is HTML; a mistake in the input is a sentence in it, and never a traceback.

    Args:
        store ([`NetworkStore`]): The models.
    """

    def __init__(self, store: NetworkStore):
        self.store = store
        self._number = itertools.count(1)

    def describe(self, model: str) -> str:
        """Return the facts of a model."""
        try:
            return f'<p class="amlm-summary">{escape(self.store.load(model).description())}</p>'
        except ValueError as error:  # also all errors of this package
            return _sentence(error)

    def show(self, model: str, text: str, progress: Progress | None = None) -> tuple[str, Shown | None]:
        """Return the track of a noiser's masks on a protein, and what the other answers need of it.

        Args:
            model (`str`): Folder or Hub name.
            text (`str`): The protein as it was pasted.
            progress (`Progress`, *optional*): Called after each batch, see [`view_masks`].
        """
        try:
            sequence = read_protein(text)
            networks = self.store.load(model)
            noiser, rules = networks.noiser_and_rules()
            view = view_masks(networks.model, networks.tokenizer, noiser, rules, sequence, progress=progress)
        except ValueError as error:
            return _sentence(error), None
        return tracks.mask_track(view, str(next(self._number))), Shown(networks.name, view)

    def mask(self, shown: Shown | None, positions: Sequence[int]) -> str:
        """Return what the encoder answers at residues that a person masked.

        Args:
            shown ([`Shown`], *optional*): The protein, from [`show`].
            positions (`Sequence[int]`): Positions from 0.
        """
        try:
            if shown is None:
                raise CorpusError("There is no protein yet: show the noiser's masks first.")
            if not positions:
                return _HINT
            networks = self.store.load(shown.model)
            together = answers_if_masked(networks.model, networks.tokenizer, shown.view.sequence, positions)
        except ValueError as error:
            return _sentence(error)
        return tracks.answers_table(shown.view.sequence, together, shown.view)

    def mask_written(self, shown: Shown | None, text: str) -> tuple[str, str, list[int]]:
        """As [`mask`], with positions as a person wrote them.

        Returns:
            The positions in words, the answer, and the positions from 1.
        """
        try:
            positions = read_positions(text, len(shown.view.sequence)) if shown else []
        except ValueError as error:
            return text, _sentence(error), []
        return write_positions(positions), self.mask(shown, positions), [position + 1 for position in positions]

    def mask_chosen(self, shown: Shown | None, chosen: object) -> tuple[str, str]:
        """As [`mask`], with the positions that a browser sends, from 1.

        Returns:
            The positions in words, and the answer.
        """
        residues = len(shown.view.sequence) if shown else 0
        numbers = chosen if isinstance(chosen, list) else []
        positions = [number - 1 for number in numbers if type(number) is int and 1 <= number <= residues]
        return write_positions(positions), self.mask(shown, positions)

    def compare(self, model: str, text: str, seed: float | None) -> str:
        """Return random and learned masks on a protein, side by side.

        Args:
            model (`str`): Folder or Hub name.
            text (`str`): The protein as it was pasted.
            seed (`float`, *optional*): Seed of the masks; 0 if there is none.
        """
        try:
            number = seed or 0
            if number != int(number) or not 0 <= number <= _LARGEST_SEED:
                raise CorpusError(f"The seed is {number:g}, but must be a whole number from 0 to {_LARGEST_SEED:,}.")
            sequence = read_protein(text)
            networks = self.store.load(model)
            noiser, rules = networks.noiser_and_rules()
            found = compare_masks(networks.model, networks.tokenizer, noiser, rules, sequence, seed=int(number))
        except ValueError as error:
            return _sentence(error)
        return tracks.comparison_tracks(found)

    def substitutions(self, model: str, text: str, progress: Progress | None = None) -> str:
        """Return the heat map of all substitutions of a protein, with a link to its table; see [`show`]."""
        try:
            sequence = read_protein(text)
            networks = self.store.load(model)
            matrix = saturation_matrix(networks.model, networks.tokenizer, sequence, progress=progress)
            figure = score_plots.saturation_figure(sequence, matrix, f"{len(sequence):,} residues, {networks.name}")
        except ValueError as error:
            return _sentence(error)
        picture = base64.b64encode(drawing.png(figure)).decode()
        table = base64.b64encode(_table_of(sequence, matrix).encode()).decode()
        words = _best_in_words(sequence, matrix)
        return (
            f'<p class="amlm-summary">{words}</p>'
            '<p><a class="amlm-download" download="substitutions.tsv" '
            f'href="data:text/tab-separated-values;base64,{table}">Download the table (TSV)</a></p>'
            '<div class="amlm-scroll" tabindex="0" role="region" aria-label="Heat map of all substitutions">'
            f'<img class="amlm-picture" src="data:image/png;base64,{picture}" alt="Heat map: scores of all '
            f'substitutions of {len(sequence):,} residues. The table has the same figures."></div>'
        )


def _table_of(sequence: str, matrix: np.ndarray) -> str:
    """Return the table of all substitutions, separated by tabs, as `adv-mlm score --saturation` writes it."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(SATURATION_COLUMNS)
    writer.writerows(saturation_rows(sequence, matrix))
    return text.getvalue()


def _best_in_words(sequence: str, matrix: np.ndarray) -> str:
    """Name the substitutions that the encoder finds more probable than the protein's own residues."""
    above = int((matrix > 0).sum())
    order = np.argsort(-np.nan_to_num(matrix, nan=-np.inf), axis=None, kind="stable")[: min(_MOST_NAMED, above)]
    names = [
        f"{sequence[at // 20]}{at // 20 + 1}{STANDARD_RESIDUES[at % 20]} ({matrix.flat[at]:+.2f})"
        for at in order.tolist()
    ]
    total = int(np.isfinite(matrix).sum()) - int(np.isfinite(matrix[:, 0]).sum())
    words = (
        f"Each substitution has the score log p(new) − log p(old) in nats. Of {total:,} substitutions, the encoder "
        f"finds {above:,} more probable than the protein's own residue"
    )
    return f"{words}: first {', '.join(names)}." if names else f"{words}."


def _sentence(error: ValueError) -> str:
    text = one_line(error)
    return tracks.message(f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('?', ')')) else '.'}")
