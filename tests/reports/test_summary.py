from adversarial_mlm.reports.summary import passes_gate, summary
from adversarial_mlm.saving.hub import PushResult


def figures(loss: float, adversarial: bool = True) -> dict[str, float]:
    values = {"loss": loss, "perplexity": 15.0, "accuracy": 0.125, "background_loss": 2.89}
    if adversarial:
        values |= {"adversarial_loss": 2.8, "random_loss": 2.6, "gap": 0.2}
        values |= {"enrichment_W": 1.9, "enrichment_A": 0.8, "enrichment_F": 2.1, "enrichment_max": 2.1}
    return {f"eval_members_{name}": value for name, value in values.items()}


LOG = [{"residues_per_second": 100.0, "seconds_noiser": 1.0, "seconds_encoder": 3.0}, {"train_loss": 3.0}]


def test_the_block_tells_what_a_user_wants_to_know():
    text = summary(figures(2.7), LOG, "runs/x", gate="members")
    assert "cross-entropy 2.700  perplexity 15.00  accuracy 12.5 %  (background predictor 2.890)" in text
    assert "masked by it 2.800, masked at random 2.600\n" in text
    assert "  it masks most F 2.1×, W 1.9×, A 0.8×\n" in text
    with_places = summary({**figures(2.7), "eval_members_mask_gap": 0.05}, LOG, "runs/x")
    assert "masked at random 2.600 (+0.050 at [MASK] alone)\n" in with_places
    assert "100 residues/s" in text and "25 % of the time in the noiser's updates" in text
    assert "runs/x/README.md" in text and "runs/x/metrics.jsonl" in text
    assert "PASSED      members: cross-entropy 2.700 is below the background predictor's 2.890" in text


def test_a_collapse_is_told():
    assert "COLLAPSED   at step 70" in summary(figures(2.7), LOG, "runs/x", collapsed_at=70)
    assert "COLLAPSED" not in summary(figures(2.7), LOG, "runs/x")


def test_the_gate_fails_at_the_background_and_above():
    assert passes_gate(figures(2.88), "members")
    assert not passes_gate(figures(2.89), "members")
    assert "FAILED      members: cross-entropy 2.900" in summary(figures(2.9), LOG, "runs/x", gate="members")


def test_an_encoder_that_is_not_below_the_background_predictor_is_told_without_a_gate():
    assert (
        "WARNING     members: cross-entropy 2.900 is not below the background predictor's 2.890: the encoder gains "
        in (summary(figures(2.9), LOG, "runs/x"))
    )
    assert "WARNING" not in summary(figures(2.7), LOG, "runs/x") + summary(figures(2.9), LOG, "runs/x", gate="members")


def test_without_noiser_or_held_out_proteins_nothing_is_claimed():
    assert "noiser" not in summary(figures(2.7, adversarial=False), [], "runs/x")
    assert "No proteins were held out" in summary({}, LOG, "runs/x")


def test_a_push_is_told_and_a_failed_one_with_the_command_to_repeat_it():
    address = "https://huggingface.co/me/it"
    assert f"Hub         {address}" in summary({}, LOG, "runs/x", push=PushResult("me/it", address=address))
    failed = PushResult("me/it", revision="trials", failure="the Hub answered 500")
    told = summary({}, LOG, "runs/my x", push=failed)
    assert "NOT PUSHED  to me/it: the Hub answered 500; the files in runs/my x are complete" in told
    assert "hf upload me/it 'runs/my x' . --exclude 'checkpoint-*' --revision trials" in told
    assert "PUSHED" not in summary({}, LOG, "runs/x")
