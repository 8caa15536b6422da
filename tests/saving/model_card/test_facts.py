"""Cards made from facts alone, without a trainer, and the facts that are read from an encoder and from a trainer."""

import subprocess
import sys
from dataclasses import replace

import pytest

from adversarial_mlm import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.encoders import train_last_layers
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.saving.model_card.architecture import describe_encoder
from adversarial_mlm.saving.model_card.facts import DataFacts, RecipeFacts


@pytest.mark.exhaustive
def test_the_card_can_be_imported_without_the_trainer():
    code = (
        "import sys, adversarial_mlm.saving.model_card; "
        "print([name for name in sys.modules if name.startswith('adversarial_mlm.training')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr[-2000:]


# ---- a card from facts ----


def test_a_random_runs_card(make_facts, card_of):
    card = card_of(make_facts())
    assert "# my-model\n" in card.text and "100 of 200 encoder updates, batch size 8 " in card.text
    assert "20 % of the residues" in card.text and "1,000 proteins" in card.text
    assert "noiser" not in card.text and card.data.library_name == "transformers"


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (
            {"rate_schedule": ["75%@0", "15%@100%"]},
            "random masks, mask rate: 75 % at 0 % of the run, 15 % at 100 % of",
        ),
        (
            {"rate_schedule": ["10%-90%"]},
            "random masks, mask rate: 10 to 90 % (drawn for each protein), corruption mix",
        ),
        (
            {"positions": "span", "span_length": 5.0},
            "masks in spans of mean length 5: 20 % of the residues",
        ),
        ({"positions": "stratified"}, "all residues of a protein in turn (`stratified`): 20 % of the residues"),
        ({"positions": "weighted"}, "in proportion to given weights (`mask_weights`): 20 % of the residues"),
    ],
)
def test_ways_of_masking_are_told(make_facts, card_of, rules, told):
    assert told in " ".join(card_of(make_facts(rules=MaskingRules(0.2, **rules))).text.split())


def test_with_a_schedule_a_games_rates_are_shares_of_it(make_facts, make_noiser_facts, card_of):
    rules = MaskingRules(0.3, adversarial_rate=0.1, blind=True, rate_schedule=["60%@0", "20%@100%"])
    card = card_of(make_facts(rules=rules, noiser=make_noiser_facts()))
    assert "random masks are 75 % of the masks" in card.text and "adversarial masks: 25 % of the masks" in card.text
    assert "candidate set: 1.25 times the mask rate" in card.text


def test_the_card_of_a_game(make_facts, make_noiser_facts, card_of):
    noiser = make_noiser_facts(view="blind", reward="credit", reward_description="hard residues")
    rules = MaskingRules(random_rate=0.1, adversarial_rate=0.1, blind=True)
    text = card_of(make_facts(noiser=noiser, rules=rules)).text
    assert "10 noiser updates, then 10 encoder updates" in text and "hard residues" in text
    assert "30 % of the residues" in text  # candidates, by default


def test_batches_that_grow_are_told_with_all_processes(make_facts, card_of):
    facts = make_facts()
    facts = replace(
        facts,
        optimization=replace(facts.optimization, accumulation=((0, 1), (80, 4))),
        environment=replace(facts.environment, processes=2),
    )
    text = card_of(facts).text
    assert "batch size 16, 64 from update 80 (8 per device, 1 then 4 accumulation steps, 2 processes)" in text


def test_of_the_log_only_what_these_weights_have_seen_is_told(make_facts, card_of):
    log = [
        {"step": 100, "eval_loss": 2.5, "eval_perplexity": 12.18, "eval_accuracy": 0.2},
        {"step": 100, "residues_per_second": 10.0, "seconds_encoder": 90.0},
        {"step": 150, "eval_loss": 9.5, "eval_perplexity": 99.0, "eval_accuracy": 0.1},
        {"step": 150, "residues_per_second": 10.0, "seconds_encoder": 90.0},
        {"step": 200, "train_runtime": 7300.0},
    ]
    text = card_of(make_facts(log_history=log)).text
    assert "12.180" in text and "99.000" not in text
    assert "900 by the encoder, in 100 updates" in text
    assert "`eval_loss`" in card_of(make_facts(log_history=log, best_by="eval_loss")).text


def test_a_recipes_held_out_sets_are_told(make_facts, card_of):
    recipe = RecipeFacts(train_data=("/data/a.fasta",), holdout_families=0.1, cluster_table="/data/families.tsv")
    data = DataFacts(proteins=900, held_out={"families": 60}, counts={"held_out_records_found": {"families": 100}})
    text = card_of(make_facts(recipe=recipe, data=data)).text
    assert (
        "`a.fasta`" in text and "`families.tsv`" in text and "*families*: 60 of 100 proteins, whole families" in text
    )


# ---- facts from an encoder ----


def test_an_encoder_of_another_class_is_described(save_encoder):
    encoder, _ = load_encoder(save_encoder("esm"))
    facts = describe_encoder(encoder)
    assert facts.class_name == "EsmForMaskedLM" and facts.has_contact_head and facts.has_pooler
    assert facts.name.endswith("esm") and facts.adapters == () and facts.dtype == "float32"
    assert facts.trained_parameters == facts.parameters == encoder.num_parameters() and not facts.partly_trained


@pytest.mark.parametrize("read_back", [False, True])
def test_what_a_recipe_froze_is_known_of_weights_that_were_read_back(make_encoder, read_back):
    frozen = make_encoder()
    train_last_layers(frozen, 1)
    expected = sum(p.numel() for p in frozen.parameters() if p.requires_grad)
    facts = describe_encoder(make_encoder() if read_back else frozen, trained_layers=1)
    assert facts.trained_parameters == expected < facts.parameters
    assert facts.partly_trained and facts.has_tied_output and facts.trained_layers == 1


def test_an_adapter_is_described(make_encoder):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["value", "query"], modules_to_save=["transform"])
    facts = describe_encoder(peft.get_peft_model(make_encoder(), config))
    (adapter,) = facts.adapters
    assert (adapter.kind, adapter.rank, adapter.alpha, adapter.has_other_ranks) == ("LoRA", 2, 6, False)
    assert adapter.modules == ("query", "value") and adapter.saved_modules == ("transform",)
    assert facts.class_name == "BertForMaskedLM" and facts.partly_trained and not facts.has_pooler


# ---- facts from a trainer ----


def test_a_random_runs_trainer_gives_its_facts(tokenizer, make_trainer):
    collator = DataCollatorForRandomMLM(tokenizer, max_length=64, random_rate=0.3)
    trainer = make_trainer(
        collator, per_device_train_batch_size=2, global_batch_size=["4@0", "8@50%"], max_steps=10, warmup_steps=3
    )
    facts = trainer.card_facts()
    assert facts.name == "my-model" and facts.noiser is None and facts.recipe is None and facts.best_by is None
    assert (
        facts.rules is collator.rules and facts.inputs.max_residues == 62 and facts.data.held_out == {"validation": 4}
    )
    assert facts.optimization.accumulation == ((0, 2), (5, 4)) and facts.options["global_batch_size"] == "4@0 8@50%"
    assert facts.environment.seeds == {"seed": 42, "data_seed": 42, "eval_mask_seed": 2021}


def test_a_games_trainer_gives_its_facts(tokenizer, make_noiser, make_trainer):
    trainer = make_trainer(
        DataCollatorForAdversarialMLM(tokenizer, make_noiser()),
        noiser_reward="reducible", slow_encoder_decay=0.9, adversarial_share=["0@0", "1@50"],
    )  # fmt: skip
    noiser = trainer.card_facts().noiser
    assert noiser.adversarial_share == ((0, 0.0), (50, 1.0)) and noiser.reversal_strength == ((0, 1.0),)
    assert noiser.reward == "reducible" and "(decay 0.9)" in noiser.reward_description
    assert noiser.parameters == trainer.noiser.num_parameters()


def test_what_only_a_recipe_knows_comes_with_the_run_facts(tokenizer, make_trainer):
    trainer = make_trainer(DataCollatorForRandomMLM(tokenizer))
    words = ["--train_data", "a.fasta", "--holdout_random", "0.1", "--holdout_seed", "7", "--model_license", "mit"]
    trainer.run_facts.update(recipe=parse_recipe(words), data={"train_data": ["a.fasta"]}, command="run.py")
    facts = trainer.card_facts()
    assert facts.recipe == RecipeFacts(("a.fasta",), holdout_random=0.1, model_license="mit")
    assert facts.environment.seeds["holdout_seed"] == 7 and facts.options["holdout_random"] == "0.1"
    assert facts.command == "run.py" and facts.data.counts == {"train_data": ["a.fasta"]}
