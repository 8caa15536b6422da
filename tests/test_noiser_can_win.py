"""Does the noiser's gradient lead anywhere? A fixed encoder, real proteins, 200 updates of a blind noiser."""

import pytest
import torch
from transformers import BertForMaskedLM

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
    NoiserModel,
    load_corpus,
    presets,
    split_corpus,
)
from adversarial_mlm.corpus import read_cluster_table
from adversarial_mlm.keyed_noise import EVALUATION, row_keys
from adversarial_mlm.losses import token_losses
from adversarial_mlm.modeling_noiser import NoiserOutput
from adversarial_mlm.noising import MaskingRules, noise_batch

MASKS = {"max_length": 128, "mask_options": (1.0, 0.0, 0.0)}  # all by [MASK], so that only the place differs


@pytest.fixture(scope="module")
def splits(repository, tmp_path_factory):
    data = repository / "examples" / "data"
    proteins = load_corpus(str(data / "demo.fasta"), cache_dir=str(tmp_path_factory.mktemp("cache"))).dataset
    clusters = read_cluster_table(data / "demo_clusters.tsv")
    return split_corpus(
        proteins, clusters=clusters, family_fraction=0.1, member_fraction=0.1, random_fraction=0.0, seed=0
    )


def train(encoder, collator, dataset, folder, **settings) -> None:
    args = AdversarialMLMTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=32, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    AdversarialMLMTrainer(model=encoder, args=args, data_collator=collator, train_dataset=dataset).train()


@pytest.fixture(scope="module")
def encoder(splits, tokenizer, vocabulary, tmp_path_factory):
    torch.manual_seed(0)
    config = presets.encoder_config("tiny", vocabulary, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    encoder = BertForMaskedLM(config)
    collator = DataCollatorForRandomMLM(tokenizer, random_rate=0.2, **MASKS)
    train(
        encoder,
        collator,
        splits.train,
        tmp_path_factory.mktemp("e"),
        max_steps=400,
        warmup_steps=10,
        learning_rate=1e-3,
    )
    return encoder


@pytest.fixture(scope="module")
def batches(splits, tokenizer):
    held_out = [*splits.held_out["members"]["sequence"], *splits.held_out["families"]["sequence"]]
    collator = DataCollatorForRandomMLM(tokenizer, **MASKS)
    examples = [{"sequence": sequence, "epoch": 0, "record": i} for i, sequence in enumerate(held_out)]
    return [collator(examples[start : start + 64]) for start in range(0, len(examples), 64)]


@torch.no_grad()
def costs(encoder, batches, corrupt, draws: int = 3) -> tuple[float, float, dict[int, float]]:
    """Mean loss of adversarial and of random masks, and how often each letter was chosen ÷ how often it stands."""
    encoder.eval()
    sums, chosen, present = torch.zeros(4), torch.zeros(30), torch.zeros(30)
    for draw in range(draws):
        for number, batch in enumerate(batches):
            rows = 64 * number + torch.arange(len(batch["input_ids"]))
            noised = corrupt(batch, row_keys(7, EVALUATION, draw, rows))
            logits = encoder(input_ids=noised.input_ids, attention_mask=noised.attention_mask).logits
            losses = token_losses(logits, noised.labels)
            for index, masks in enumerate((noised.adversarial, noised.random)):
                sums[2 * index] += losses[masks].sum()
                sums[2 * index + 1] += masks.sum()
            chosen += torch.bincount(batch["input_ids"][noised.adversarial], minlength=30)
            present += torch.bincount(batch["input_ids"][batch["residue_mask"]], minlength=30)
    rates = (chosen / chosen.sum().clamp_min(1)) / (present / present.sum()).clamp_min(1e-9)
    return (sums[0] / sums[1]).item(), (sums[2] / sums[3]).item(), rates


def static_mask(rates: torch.Tensor, vocabulary):
    """Masks by residue alone, as often as `rates` say, beside as many random ones."""
    rules = MaskingRules(0.1, MASKS["mask_options"], adversarial_rate=0.1, learned_options=False)

    def corrupt(batch, keys):
        scores = NoiserOutput(
            any_mask_scores=rates.clamp_min(1e-3).log()[batch["input_ids"]], option_scores=torch.zeros(1, 1, 22)
        )
        return noise_batch(batch, keys, vocabulary, rules, lambda **inputs: scores)

    return corrupt


def trained_noiser(encoder, splits, tokenizer, vocabulary, folder, seed: int, sign: float = 1.0):
    torch.manual_seed(seed)
    noiser = NoiserModel(presets.noiser_config("tiny", vocabulary, view="blind"))
    collator = DataCollatorForAdversarialMLM(
        tokenizer, noiser=noiser, learned_options=False, sampler="gumbel_topk", candidate_rate=0.6, **MASKS
    )

    class Signed(AdversarialMLMTrainer):
        def _noiser_pay(self, *args):
            return sign * super()._noiser_pay(*args)

    args = AdversarialMLMTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=32, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, max_steps=1, noiser_steps=200, learning_rate=0.0, weight_decay=0.0, seed=seed,
        noiser_learning_rate=1e-2, noiser_reward="credit", lr_scheduler_type="constant",
    )  # fmt: skip
    Signed(model=encoder, args=args, data_collator=collator, train_dataset=splits.train).train()
    noiser.eval()
    return collator


@pytest.mark.slow
def test_a_blind_noiser_finds_what_is_hard_and_with_the_sign_turned_what_is_easy(
    encoder, splits, batches, tokenizer, vocabulary, tmp_path
):
    random = DataCollatorForRandomMLM(tokenizer, random_rate=0.2, **MASKS)
    _, by_chance, _ = costs(encoder, batches, random.corrupt)
    standard = list(vocabulary.replacement_ids)
    for seed in range(5):
        collator = trained_noiser(encoder, splits, tokenizer, vocabulary, tmp_path / str(seed), seed)
        adversarial, beside, rates = costs(encoder, batches, collator.corrupt)
        static, _, static_rates = costs(encoder, batches, static_mask(rates, vocabulary))
        print(f"{by_chance=:.3f} {beside=:.3f} {adversarial=:.3f} {static=:.3f}")
        assert (static_rates - rates)[standard].abs().max() < 0.1  # it does mask the same residues as often
        assert adversarial > beside + 0.05 and adversarial > by_chance + 0.03
        assert adversarial > static + 0.01
    turned = trained_noiser(encoder, splits, tokenizer, vocabulary, tmp_path / "turned", 0, sign=-1.0)
    adversarial, beside, _ = costs(encoder, batches, turned.corrupt)
    print(f"turned: {by_chance=:.3f} {beside=:.3f} {adversarial=:.3f}")
    assert adversarial < beside - 0.03 and adversarial < by_chance - 0.03
