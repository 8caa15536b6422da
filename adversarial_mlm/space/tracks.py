"""The protein as HTML: a coloured sequence with tracks, where each residue can be chosen, and tables.

All is text that is built here from numbers and residues, so nothing that a person pastes gets into the page unescaped.
Nothing is shown by colour alone: bars have heights, masks have signs, and each residue has a label in words.
"""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from adversarial_mlm.inference.mask_comparison import DrawnMasks, MaskComparison
from adversarial_mlm.inference.mask_view import CORRUPTIONS, MaskView
from adversarial_mlm.inference.masked_answers import MaskedAnswers, top_residues
from adversarial_mlm.models.modeling_noiser import KEEP, MASK
from adversarial_mlm.reports.mask_plots import COLOURS, favourite_signs, only_masks, shade

_IN_BLOCK = 10
_MOST_ENTROPY = float(np.log(20))
_MARKS = {True: "n", False: "r"}  # masked by the noiser, or at random
_CORRUPTION_WORDS = {MASK: "by [MASK]", KEEP: "but kept"}


def message(text: str) -> str:
    """Return a sentence about a mistake; a screen reader reads it at once."""
    return f'<p class="amlm-message" role="alert">{escape(text)}</p>'


def mask_track(view: MaskView, shown: str) -> str:
    """Return the track of a noiser's masks: a button for each residue, its bar, signs, answer and entropy.

    Args:
        view ([`MaskView`]): Result of [`view_masks`].
        shown (`str`): A word that is new for each answer, so that the browser forgets what was chosen before.
    """
    largest = max(float(view.probability.max()), 1e-12)
    signs = None if only_masks(view) else favourite_signs(view)
    cells = [_mask_cell(view, index, largest, signs) for index in range(len(view.sequence))]
    residues = len(view.sequence)
    label = (
        f"Protein of {residues:,} residues. The arrow keys go from residue to residue, Enter masks a residue or shows "
        "it again."
    )
    return (
        f'<p class="amlm-summary">{escape(mask_summary(view))}</p>{_mask_legend(view)}'
        f'<div class="amlm-track" role="group" aria-label="{label}" data-shown="{escape(shown)}">'
        f"{_blocks(cells)}</div>"
        '<p class="amlm-detail" aria-hidden="true">Point at a residue to read about it. Choose it to mask it.</p>'
    )


def mask_summary(view: MaskView) -> str:
    """Return what the noiser does with the protein, in a few sentences."""
    order = np.argsort(-view.probability, kind="stable")[:3]
    most = ", ".join(f"{view.sequence[at]}{at + 1} ({_percent(view.probability[at])})" for at in order.tolist())
    words = f"The noiser masks {view.budget:,} of {len(view.sequence):,} residues at a time, most often {most}."
    known = view.loss[~np.isnan(view.loss)]
    right = sum(own == answer for own, answer in zip(view.sequence, view.answer, strict=True))
    words += (
        f" Where one residue alone is masked, the encoder's first answer is right at {right:,} of {len(known):,}; "
        f"the mean cross-entropy is {known.mean():.2f} nats."
    )
    if view.parts > 1:
        words += f" The noiser read the protein in {view.parts} parts, because it is longer than its max_length."
    return words


def describe_residue(view: MaskView, index: int) -> str:
    """Return all that the page knows about a residue, in words."""
    name = f"{view.sequence[index]}{index + 1}"
    answers = ", ".join(f"{letter} {_percent(share)}" for letter, share in top_residues(view.answers[index]))
    encoder = f"the encoder answers {answers}; entropy {view.entropy[index]:.2f} nats"
    if np.isnan(view.loss[index]):
        return f"{name}: unknown, so never masked by the noiser; {encoder}"
    how = f"{'always' if view.corruption[index].max() == 1 else 'mostly'} {view.favourite[index]}"
    return f"{name}: masked {_percent(view.probability[index])} of the time, {how}; {encoder}"


def _mask_cell(view: MaskView, index: int, largest: float, signs: str | None) -> str:
    share = float(view.probability[index]) / largest
    paper, letter = shade(share)
    kind = int(view.corruption[index].argmax())
    answer = "·" if view.answer[index] == view.sequence[index] else view.answer[index]
    sign = "" if signs is None else f'<span class="amlm-sign">{escape(signs[index])}</span>'
    style = f"--bar:{share:.3f};--fill:{COLOURS[CORRUPTIONS[kind]]};--low:{view.entropy[index] / _MOST_ENTROPY:.3f}"
    return (
        f'<button type="button" class="amlm-residue" data-position="{index + 1}" aria-pressed="false" '
        f'tabindex="{0 if index == 0 else -1}" aria-label="{escape(describe_residue(view, index))}" '
        f'style="{style}"><span class="amlm-letter" style="background:{paper};color:{letter}">'
        f'{escape(view.sequence[index])}</span>{sign}<span class="amlm-answer">{escape(answer)}</span>'
        "</button>"
    )


def _mask_legend(view: MaskView) -> str:
    rows = ["bar and blue: how often the noiser masks the residue"]
    if only_masks(view):
        rows[0] += "; it always writes [MASK]"
    else:
        rows.append(
            "below the residue: how it masks most often, _ by [MASK], = by keeping it, a letter by this residue"
        )
    rows.append(
        "the letter above the grey bar: the encoder's first answer if this residue alone is masked, · if it is right"
    )
    rows.append("grey bar: entropy of this answer, short where the encoder is sure")
    return _legend(rows)


def answers_table(sequence: str, together: MaskedAnswers, alone: MaskView) -> str:
    """Return the table of the residues that a person masked: the answers if each alone is masked, and if all are.

    Args:
        sequence (`str`): The protein.
        together ([`MaskedAnswers`]): The answers where all of them are masked.
        alone ([`MaskView`]): The answers where each alone is masked.
    """
    number = len(together.positions)
    head = (
        "residue",
        "masked alone",
        "entropy",
        f"all {number:,} masked" if number > 1 else "masked by you",
        "entropy",
        "change of p(residue)",
    )
    rows = []
    for row, index in enumerate(together.positions.tolist()):
        before, after = np.exp(-alone.loss[index]), np.exp(-together.loss[row])
        rows.append(
            (
                f"{sequence[index]}{index + 1}",
                _answers(alone.answers[index]),
                f"{alone.entropy[index]:.2f}",
                _answers(together.answers[row]),
                f"{together.entropy[row]:.2f}",
                "unknown" if np.isnan(before) else f"{_percent(before)} → {_percent(after)}",
            )
        )
    caption = f"The encoder's answers at the {number:,} residue{'s' * (number != 1)} that you masked; entropy in nats"
    return _table(caption, head, rows)


def _answers(shares: np.ndarray) -> str:
    return ", ".join(f"{letter} {_percent(share)}" for letter, share in top_residues(shares, 5))


def comparison_tracks(found: MaskComparison) -> str:
    """Return both kinds of masks on a protein, one below the other, with the loss at each, and their table."""
    both = np.concatenate([found.random.loss[0], found.learned.loss[0]])
    largest = max(float(np.nanmax(both)), 1e-12)
    legend = _legend(
        [
            "bar: cross-entropy of the encoder at a masked residue, in nats; the longest bar is "
            f"{largest:.2f} nats in both",
            "below: who masked it, n the noiser, r chance; residues without a mark are not masked",
        ]
    )
    parts = [f'<p class="amlm-summary">{escape(comparison_summary(found))}</p>{legend}']
    for title, drawn in (("Random masks", found.random), ("The noiser's masks", found.learned)):
        cells = [_loss_cell(found.sequence, drawn, index, largest) for index in range(len(found.sequence))]
        number = int(drawn.masked[0].sum())
        words = f"{title}: {number:,} of {len(found.sequence):,} residues are masked; the table below lists them"
        parts.append(
            f'<h3 class="amlm-heading">{title}: mean {drawn.means[0]:.2f} nats in this draw</h3>'
            f'<div class="amlm-track" role="img" aria-label="{words}">{_blocks(cells)}</div>'
        )
    return "".join(parts) + _comparison_table(found)


def comparison_summary(found: MaskComparison) -> str:
    """Return the difference of both kinds of masks over all draws, in a few sentences."""
    draws = len(found.random.masked)
    words = (
        f"Both kinds mask {found.budget:,} of {len(found.sequence):,} residues; of the learned ones, the noiser "
        f"chooses {found.of_noiser:,}. "
    )
    if found.only_mask:
        words += "All masks are [MASK], so the two differ in positions only. "
    else:
        words += "The noiser also chooses how to mask, so the two differ in positions and kinds of masks. "
        at_mask = [_mean(kind.means_at_mask) for kind in (found.random, found.learned)]
        words += f"At [MASK] alone, the mean is {at_mask[0]} nats for random masks and {at_mask[1]} for learned ones. "
    difference = found.learned.means - found.random.means
    mean = float(np.mean(difference))
    words += (
        f"Mean cross-entropy over {draws:,} draw{'s' * (draws != 1)}: random {np.mean(found.random.means):.2f}, "
        f"learned {np.mean(found.learned.means):.2f} nats. "
    )
    if draws == 1:
        return words + f"The difference of this one draw is {mean:+.2f}."
    error = float(np.std(difference, ddof=1) / np.sqrt(draws))
    words += f"The difference is {mean:+.2f} ± {error:.2f} (standard error of the draws): "
    if abs(mean) <= 2 * error:
        return words + "no clear difference for this protein and model."
    return words + f"the noiser's masks are {'harder' if mean > 0 else 'easier'} for this model on this protein."


def _loss_cell(sequence: str, drawn: DrawnMasks, index: int, largest: float) -> str:
    letter = escape(sequence[index])
    if not drawn.masked[0, index]:
        return f'<span class="amlm-cell"><span class="amlm-letter">{letter}</span></span>'
    by_noiser = bool(drawn.by_noiser[0, index])
    loss = float(drawn.loss[0, index])
    kind = "amlm-noiser" if by_noiser else "amlm-random"
    return (
        f'<span class="amlm-cell amlm-masked {kind}" style="--bar:{loss / largest:.3f}" '
        f'title="{letter}{index + 1}: {loss:.2f} nats"><span class="amlm-letter">{letter}</span>'
        f'<span class="amlm-sign">{_MARKS[by_noiser]}</span></span>'
    )


def _comparison_table(found: MaskComparison) -> str:
    rows = []
    for index in np.flatnonzero(found.random.masked[0] | found.learned.masked[0]).tolist():
        cells = [_loss_words(drawn, index) for drawn in (found.random, found.learned)]
        rows.append((f"{found.sequence[index]}{index + 1}", *cells))
    table = _table("Cross-entropy at each masked residue, in nats", ("residue", "random masks", "learned masks"), rows)
    return f"<details><summary>All masked residues as a table</summary>{table}</details>"


def _loss_words(drawn: DrawnMasks, index: int) -> str:
    if not drawn.masked[0, index]:
        return "not masked"
    who = "noiser" if drawn.by_noiser[0, index] else "chance"
    how = _CORRUPTION_WORDS.get(int(drawn.option[0, index]), "by another residue")
    return f"{drawn.loss[0, index]:.2f} ({who}, {how})"


def _blocks(cells: Sequence[str]) -> str:
    """Return cells in blocks of ten, each below the number of its first residue; a browser wraps between blocks."""
    return "".join(
        f'<div class="amlm-block"><span class="amlm-number" aria-hidden="true">{start + 1}</span>'
        f'<div class="amlm-cells">{"".join(cells[start : start + _IN_BLOCK])}</div></div>'
        for start in range(0, len(cells), _IN_BLOCK)
    )


def _legend(rows: Iterable[str]) -> str:
    return f'<ul class="amlm-legend">{"".join(f"<li>{escape(row)}</li>" for row in rows)}</ul>'


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; if it is too large, it scrolls by itself, also by keyboard. On narrow screens it is a list."""
    first = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{_row(head, row)}</tr>" for row in rows)
    name = escape(caption)
    return (
        f'<div class="amlm-scroll" tabindex="0" role="region" aria-label="{name}"><table><caption>{name}</caption>'
        f"<thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(head: Sequence[str], row: Sequence[str]) -> str:
    cells = (
        f'<td data-column="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(head[1:], row[1:], strict=True)
    )
    return f'<th scope="row">{escape(row[0])}</th>{"".join(cells)}'


def _mean(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.2f}" if len(known) else "unknown"


def _percent(share: float) -> str:
    return f"{100 * float(share):.0f} %"
