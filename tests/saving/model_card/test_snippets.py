"""The three snippets of a card do what the card says, in an interpreter of their own."""

import pytest
import torch
from transformers import BertForMaskedLM, BertTokenizer, ModernBertConfig, ModernBertForMaskedLM

from adversarial_mlm import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.saving.model_card.rendering import BASE_PLACEHOLDER, EXAMPLES, PLACEHOLDER
from tests.helpers import snippets
from tests.helpers.exhaustive import exhaustive
from tests.helpers.snippets import python_blocks

KEEP = ("embeddings", "probabilities", "frequency")


@pytest.fixture
def run_snippets(tmp_path):
    def run(trainer, base: str = "") -> tuple[list[dict], str]:
        trainer.save_model()
        card = open(f"{trainer.args.output_dir}/README.md", encoding="utf-8").read().replace(BASE_PLACEHOLDER, base)
        blocks = python_blocks(card.replace(PLACEHOLDER, trainer.args.output_dir))
        blocks.sort(key=lambda code: "adversarial_mlm" in code)
        results, printed = snippets.run_snippets([(code, code) for code in blocks], tmp_path, KEEP)
        return [result.values for result in results], printed

    return run


@torch.no_grad()
def expected(trainer, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the residues of each example alone, and the logits at the masked position of the first."""
    model, encode = trainer.model.eval(), trainer.data_collator.sequence_encoder
    means = []
    for protein in EXAMPLES:
        batch = encode([{"sequence": protein}])
        encoder = model.get_base_model() if hasattr(model, "get_base_model") else model
        hidden = encoder.base_model(input_ids=batch["input_ids"]).last_hidden_state
        means.append(hidden[batch["residue_mask"]].mean(dim=0))
    batch = encode([{"sequence": EXAMPLES[0]}])
    batch["input_ids"][0, position + 1] = encode.vocabulary.mask_token_id
    return torch.stack(means), model(input_ids=batch["input_ids"]).logits[0, position + 1]


def check_the_encoders(results: list[dict], trainer) -> None:
    embeddings, logits = expected(trainer, 9)
    torch.testing.assert_close(torch.tensor(results[0]["embeddings"]), embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(results[1]["probabilities"]), logits.softmax(dim=-1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_of_an_adversarial_run(tokenizer, make_noiser, make_trainer, run_snippets):
    noiser = make_noiser(view="blind")
    collator = DataCollatorForAdversarialMLM(
        tokenizer, noiser, max_length=64, sampler="gumbel_topk", candidate_rate=0.5
    )
    trainer = make_trainer(collator)
    results, printed = run_snippets(trainer)
    check_the_encoders(results, trainer)
    frequency = results[2]["frequency"]
    assert len(frequency) == len(EXAMPLES[0]) and sum(frequency) == pytest.approx(2, abs=1e-4)  # a tenth of 22
    assert max(frequency) < 1 and printed.count("% of the copies") == 5


@pytest.mark.exhaustive
@pytest.mark.slow
def test_of_a_random_run_with_a_tokenizer_that_needs_spaces(make_encoder, make_trainer, run_snippets, tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *"LAGVESIKRDTPNQFYMHCWXUBZO"]))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False)
    trainer = make_trainer(DataCollatorForRandomMLM(tokenizer), make_encoder(vocab_size=30))
    results, printed = run_snippets(trainer)
    check_the_encoders(results, trainer)
    _, logits = expected(trainer, 9)
    old, new = tokenizer.convert_tokens_to_ids([EXAMPLES[0][9], "W"])
    assert f"{EXAMPLES[0][9]}10W: {(logits[new] - logits[old]).item():+.2f} nats" in printed


@pytest.mark.exhaustive
@pytest.mark.slow
def test_of_a_model_without_a_pooler(tokenizer, make_trainer, run_snippets):
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    trainer = make_trainer(DataCollatorForRandomMLM(tokenizer), ModernBertForMaskedLM(config))
    results, _ = run_snippets(trainer)
    check_the_encoders(results, trainer)


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, exhaustive(False)])
def test_of_an_adapter(save_encoder, make_trainer, run_snippets, named):
    peft = pytest.importorskip("peft")
    folder = save_encoder("bert")
    encoder, tokenizer = load_encoder(folder)
    if not named:
        encoder = BertForMaskedLM(encoder.config)
        encoder.load_state_dict(load_encoder(folder)[0].state_dict())
        encoder.name_or_path = encoder.config._name_or_path = ""
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)  # of the head, too
    trainer = make_trainer(DataCollatorForRandomMLM(tokenizer), peft.get_peft_model(encoder, config))
    results, _ = run_snippets(trainer, base=folder)
    check_the_encoders(results, trainer)
