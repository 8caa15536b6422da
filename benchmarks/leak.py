"""Measure what a choice of positions reveals about the hidden residues: the table of `docs/algorithm.md`.

Every outcome of a small world is counted. Its proteins have six residues of two kinds, and neighbours depend on each
other. A noiser with random weights masks one residue, one more is masked at random, both by [MASK]. The loss-optimal
encoder knows the law of the masks. The true conditional distribution depends on the visible residues only.

Run it with `python -m benchmarks.leak`.
"""

import itertools
import math
import statistics
from collections.abc import Mapping

import torch
from transformers import PreTrainedTokenizerBase

from adversarial_mlm import NoiserConfig, NoiserModel, build_protein_tokenizer

LENGTH, CANDIDATES, SEEDS = 6, 3, 20
WORLD = list(itertools.product("AL", repeat=LENGTH))
VIEWS = ("full", "context", "blind")

Law = dict[tuple[frozenset[int], int], tuple[float, dict[int, float]]]


def protein_probabilities() -> dict[tuple[str, ...], float]:
    """Return the probability of each protein: an Ising chain whose ends and middle lean to one kind."""
    fields = [0.6, -0.3, 0.2, -0.8, 0.4, 0.1]

    def weight(protein: tuple[str, ...]) -> float:
        spins = [1 if letter == "A" else -1 for letter in protein]
        pairs = sum(a * b for a, b in zip(spins, spins[1:], strict=False))
        return math.exp(0.5 * pairs + sum(f * s for f, s in zip(fields, spins, strict=True)))

    total = sum(weight(protein) for protein in WORLD)
    return {protein: weight(protein) / total for protein in WORLD}


def random_noiser(tokenizer: PreTrainedTokenizerBase, view: str, seed: int = 0) -> NoiserModel:
    """Return a noiser in float64 whose random weights give it strong preferences."""
    torch.manual_seed(seed)
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
    noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, view=view, **sizes)).double().eval()
    torch.nn.init.normal_(noiser.score.weight, std=10.0)
    return noiser


@torch.no_grad()
def _preferences(noiser: NoiserModel, ids: torch.Tensor, hidden: tuple[int, ...], mask_id: int) -> list[list[float]]:
    """Return exp(any-mask score) at each residue of each protein; the noiser does not see those in `hidden`."""
    ids = ids.clone()
    ids[:, [position + 1 for position in hidden]] = mask_id
    return noiser(ids).any_mask_scores[:, 1:-1].exp().tolist()


def laws_of_masks(
    noiser: NoiserModel, tokenizer: PreTrainedTokenizerBase, weighted: bool = False
) -> dict[tuple[str, ...], Law]:
    """Return the law of the masks of each protein.

    One residue is masked by the noiser, in proportion to its preference, and one more at random. A blind noiser has
    three candidates for both.

    Args:
        noiser ([`NoiserModel`]): Chooses the positions.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        weighted (`bool`, *optional*, defaults to `False`): Whether each masked residue counts ρ / q_i (β = 1).

    Returns:
        For each protein and (both masked positions, the noiser's position): its probability, and for both positions
        that probability times the weight of the residue.
    """
    ids = tokenizer(["".join(protein) for protein in WORLD], return_tensors="pt")["input_ids"]
    blind = noiser.config.view == "blind"
    sets = list(itertools.combinations(range(LENGTH), CANDIDATES)) if blind else [tuple(range(LENGTH))]
    laws: dict[tuple[str, ...], Law] = {protein: {} for protein in WORLD}
    for candidates in sets:
        preferences = _preferences(noiser, ids, candidates if blind else (), tokenizer.mask_token_id)
        others = len(candidates) - 1
        for protein, given in zip(WORLD, preferences, strict=True):
            total = sum(given[i] for i in candidates)
            share = {i: given[i] / total for i in candidates}
            weight = {i: 2 / len(candidates) / (p + (1 - p) / others) if weighted else 1.0 for i, p in share.items()}
            for chosen, other in itertools.permutations(candidates, 2):
                p = share[chosen] / others / len(sets)
                outcome = (frozenset((chosen, other)), chosen)
                happens, counts = laws[protein].get(outcome, (0.0, {chosen: 0.0, other: 0.0}))
                counts = {i: counts[i] + p * weight[i] for i in counts}
                laws[protein][outcome] = (happens + p, counts)
    return laws


@torch.no_grad()
def laws_of_choices(
    noiser: NoiserModel, tokenizer: PreTrainedTokenizerBase, probability: Mapping[tuple[str, ...], float]
) -> dict[tuple[str, ...], Law]:
    """Return the law of the masks that are trained on, where a noiser chooses proteins (`masking: chosen_proteins`).

    Two residues are masked at random. The protein is then chosen in proportion to exp(mean any-mask score of both).

    Args:
        noiser ([`NoiserModel`]): Chooses the proteins. With the view `blind` it does not see the masked residues.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        probability (`Mapping`): Result of [`protein_probabilities`].

    Returns:
        As for [`laws_of_masks`], in relation to how often a protein is chosen in the mean.
    """
    ids = tokenizer(["".join(protein) for protein in WORLD], return_tensors="pt")["input_ids"]
    pairs = list(itertools.combinations(range(LENGTH), 2))
    laws: dict[tuple[str, ...], Law] = {protein: {} for protein in WORLD}
    for masked in pairs:
        hidden = masked if noiser.config.view == "blind" else ()
        scores = _preferences(noiser, ids, hidden, tokenizer.mask_token_id)
        for protein, given in zip(WORLD, scores, strict=True):
            chosen = math.sqrt(given[masked[0]] * given[masked[1]]) / len(pairs)
            laws[protein][(frozenset(masked), masked[0])] = (chosen, dict.fromkeys(masked, chosen))
    mean = sum(probability[protein] * happens for protein, law in laws.items() for happens, _ in law.values())
    return {
        protein: {
            outcome: (happens / mean, {i: count / mean for i, count in counts.items()})
            for outcome, (happens, counts) in law.items()
        }
        for protein, law in laws.items()
    }


def measure_choice(view: str, seed: int) -> float:
    """Return the leak of one random noiser that chooses proteins, in nats."""
    tokenizer, probability = build_protein_tokenizer(), protein_probabilities()
    return leak(probability, laws_of_choices(random_noiser(tokenizer, view, seed), tokenizer, probability))


def leak(probability: Mapping[tuple[str, ...], float], laws: Mapping[tuple[str, ...], Law]) -> float:
    """Return the mean KL divergence from the true conditional to the loss-optimal prediction of a masked residue.

    Args:
        probability (`Mapping`): Result of [`protein_probabilities`].
        laws (`Mapping`): Result of [`laws_of_masks`].

    Returns:
        `float`: In nats.
    """
    seen: dict[tuple, dict[str, list[float]]] = {}
    for protein, p in probability.items():
        for masked in itertools.combinations(range(LENGTH), 2):
            for position in masked:
                sums = _sums_of(seen, protein, frozenset(masked), position)
                sums[2] += p
        for (hidden, _), (happens, counts) in laws[protein].items():
            for position in hidden:
                sums = _sums_of(seen, protein, hidden, position)
                sums[0] += p * happens
                sums[1] += p * counts[position]  # as the loss counts it
    divergence = 0.0
    for joint in seen.values():
        happens, counted, true = (sum(sums[k] for sums in joint.values()) for k in range(3))
        for sums in joint.values():
            divergence += happens * sums[2] / true * math.log((sums[2] / true) / (sums[1] / counted))
    return divergence / 2  # two masked residues in every protein


def _sums_of(seen: dict, protein: tuple[str, ...], masked: frozenset[int], position: int) -> list[float]:
    """Return the sums of one residue at a masked position: how often masked, how often counted, how often there."""
    visible = tuple("?" if i in masked else letter for i, letter in enumerate(protein))
    return seen.setdefault((visible, position), {}).setdefault(protein[position], [0.0, 0.0, 0.0])


def measure(view: str, seed: int) -> tuple[float, float]:
    """Return the leak of one random noiser, in nats: unweighted, and with importance weights (β = 1)."""
    tokenizer, probability = build_protein_tokenizer(), protein_probabilities()
    noiser = random_noiser(tokenizer, view, seed)
    plain, weighted = (leak(probability, laws_of_masks(noiser, tokenizer, weighted)) for weighted in (False, True))
    return plain, weighted


def row(view: str, seeds: int = SEEDS) -> str:
    """Return the leak of a view as a row of a Markdown table: mean ± standard deviation over random noisers."""
    cells = []
    for values in zip(*(measure(view, seed) for seed in range(seeds)), strict=True):
        is_zero = max(map(abs, values)) < 1e-12
        cells.append("0" if is_zero else f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
    return f"| `{view}` | {' | '.join(cells)} |"


def row_of_choice(view: str, seeds: int = SEEDS) -> str:
    """As [`row`], for a noiser that chooses proteins."""
    values = [measure_choice(view, seed) for seed in range(seeds)]
    is_zero = max(map(abs, values)) < 1e-12
    return f"| `{view}` | {'0' if is_zero else f'{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}'} |"


if __name__ == "__main__":
    print("| view | unweighted | weighted, β = 1 |\n| --- | --- | --- |", *map(row, VIEWS), sep="\n")
    print("\n| view | choice of proteins |\n| --- | --- |", *map(row_of_choice, ("full", "blind")), sep="\n")
