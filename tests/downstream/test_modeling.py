import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, BertConfig

from adversarial_mlm.downstream.modeling import HEADS, ProteinTaskModel, TaskModelConfig, scored_items
from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.models.loading import CheckpointError, load_backbone

ENCODERS = ["bert", "prot_bert", "esm", "roberta", "modernbert"]
PAIRS = [(kind, head) for kind, heads in HEADS.items() for head in heads]
PROTEINS = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ", "GAV", "K", "MKTAYIAKQRQ"]


@pytest.fixture
def build(save_encoder):
    """A model with the encoder as a user would load it, in evaluation mode, and its collator."""

    def build(encoder="bert", kind="regression", head=None, **options):
        # large weights, so that what an encoder reads makes a difference
        backbone, tokenizer = load_backbone(save_encoder(encoder, initializer_range=0.3))
        torch.manual_seed(0)
        config = TaskModelConfig(
            encoder_config=backbone.config.to_dict(), kind=kind, head=head, head_size=24, num_labels=3, **options
        )
        model = ProteinTaskModel(config)
        model.encoder.load_state_dict(backbone.state_dict())
        return model.eval(), DataCollatorForTask(tokenizer, kind, 60)

    return build


def batch_of(collator, proteins, labels=None):
    labels = [{}] * len(proteins) if labels is None else [{"label": label} for label in labels]
    return collator([{"sequence": protein, **label} for protein, label in zip(proteins, labels, strict=True)])


def outputs(model, collator, proteins):
    """What counts: a row for each protein."""
    batch = batch_of(collator, proteins)
    logits = model(**batch).logits.detach()
    if model.config.kind == "token_classification":
        return [row[mask] for row, mask in zip(logits, batch["residue_mask"], strict=True)]
    return list(logits)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("kind", "head"), PAIRS)
def test_a_prediction_does_not_depend_on_the_padding(build, encoder, kind, head):
    model, collator = build(encoder, kind, head)
    together = outputs(model, collator, PROTEINS)
    for protein, found in zip(PROTEINS, together, strict=True):
        torch.testing.assert_close(found, outputs(model, collator, [protein])[0], atol=1e-5, rtol=1e-4)
    assert (together[0].flatten()[0] - together[3].flatten()[0]).abs() > 1e-3


@pytest.mark.parametrize("head", ["attention", "mean", "conv", "linear"])
@pytest.mark.parametrize("training", [False, True])
def test_a_head_sees_residues_alone(build, head, training):
    kind = "token_classification" if head in ("conv", "linear") else "regression"
    model, collator = build(kind=kind, head=head, head_dropout=0.0)
    module = model.head.train(training)
    residues = batch_of(collator, PROTEINS)["residue_mask"]
    hidden = torch.randn(*residues.shape, 16)
    other = torch.where(residues.unsqueeze(-1), hidden, 100.0)
    first, second = module(hidden, residues), module(other, residues)
    if kind == "token_classification":
        first, second = first[residues], second[residues]
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("head", HEADS["token_classification"])
def test_a_protein_that_fills_its_row_is_read_as_one_with_room_behind_it(build, head):
    # as with a tokenizer that puts no special tokens around a protein
    model, _ = build(kind="token_classification", head=head)
    hidden, residues = torch.randn(1, 9, 16), torch.ones(1, 9, dtype=torch.bool)
    roomy = F.pad(hidden, (0, 0, 4, 4)), F.pad(residues, (4, 4))
    torch.testing.assert_close(model.head(*roomy)[:, 4:13], model.head(hidden, residues), atol=1e-5, rtol=1e-4)


def test_attention_with_equal_scores_is_the_mean_and_with_one_high_score_that_residue(build):
    model, _ = build(head="attention")
    pooling = model.head.pooling
    residues = torch.tensor([[False, True, True, True, False]])
    hidden = torch.randn(1, 5, 16)
    torch.nn.init.zeros_(pooling.score.weight)
    torch.testing.assert_close(pooling(hidden, residues)[0], hidden[0, 1:4].mean(0))
    torch.nn.init.constant_(pooling.score.weight, 0.0)
    pooling.score.weight.data[0, 0] = 1e4
    top = pooling.norm(hidden)[0, 1:4, 0].argmax() + 1
    torch.testing.assert_close(pooling(hidden, residues)[0], hidden[0, top])


def test_the_batch_norm_of_the_convolutions_averages_over_residues(build):
    model, collator = build(kind="token_classification", head="conv")
    residues = batch_of(collator, PROTEINS)["residue_mask"]
    hidden = torch.randn(*residues.shape, 16) + 3.0
    model.head.train()(hidden, residues)
    torch.testing.assert_close(model.head.norm.running_mean, 0.1 * hidden[residues].mean(0))


def test_a_protein_of_one_residue_can_be_trained_on_alone(build):
    model, collator = build(kind="token_classification", head="conv")
    loss = model.train()(**batch_of(collator, ["K"], [[1]])).loss
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("head", HEADS["token_classification"])
def test_the_loss_is_the_mean_cross_entropy_of_the_residues_that_count(build, head):
    model, collator = build(kind="token_classification", head=head)
    batch = batch_of(collator, ["ACDE", "AC"], [[0, -100, -1, 2], [1, -100]])
    output = model(**batch)
    wanted = F.cross_entropy(output.logits[[0, 0, 1], [1, 4, 1]], torch.tensor([0, 2, 1]))
    torch.testing.assert_close(output.loss, wanted)
    nothing = model(**batch_of(collator, ["AC"], [[-1, -100]]))
    assert nothing.loss == 0


def test_a_class_that_train_never_saw_does_not_count(build):
    model, collator = build(kind="classification")
    both = model(**batch_of(collator, ["ACDE", "AC"], [2, -1]))
    torch.testing.assert_close(both.loss, F.cross_entropy(both.logits[:1], torch.tensor([2])))


def test_a_regression_learns_in_standard_deviations_and_predicts_in_units(build):
    model, collator = build(label_mean=-100.0, label_std=4.0)
    torch.nn.init.zeros_(model.head.layers[-1].weight)
    output = model(**batch_of(collator, ["ACDE", "AC"], [-100.0, -92.0]))
    assert output.logits.tolist() == [-100.0, -100.0]
    torch.testing.assert_close(output.loss, torch.tensor((0.0 + 2.0**2) / 2))


def test_every_number_of_a_regression_counts_and_no_negative_class():
    assert scored_items(torch.tensor([-100.0, 1.0])) == 2
    assert scored_items(torch.tensor([[-100, 1, -1], [0, 2, -100]])) == 3


def test_losses_of_parts_over_the_items_of_the_whole_add_up_to_the_loss_of_the_whole(build):
    model, collator = build(kind="token_classification", head="linear")
    labels = [[0, 1, 2, -100], [1], [2, -100]]
    examples = list(zip(["ACDE", "A", "AC"], labels, strict=True))
    whole = model(**batch_of(collator, *zip(*examples, strict=True))).loss
    parts = [
        model(**batch_of(collator, *zip(*part, strict=True)), num_items_in_batch=torch.tensor(5)).loss
        for part in (examples[:1], examples[1:])
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_there_is_no_pooler_that_nobody_trained(build, encoder):
    model, _ = build(encoder, head="cls")
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]
    assert model.head.pooling.dense.weight.shape == (16, 16)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("kind", "head"), PAIRS)
def test_what_is_saved_is_what_is_loaded(build, tmp_path, encoder, kind, head):
    model, collator = build(encoder, kind, head, label_mean=2.0, label_std=3.0)
    model.head.train()(torch.randn(1, 9, 16), torch.ones(1, 9, dtype=torch.bool))  # statistics of the batch norm
    model.eval().save_pretrained(tmp_path / "saved")
    for load in (ProteinTaskModel, AutoModel):
        again, report = load.from_pretrained(tmp_path / "saved", output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        for name, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
        assert (again.config.kind, again.config.head) == (kind, head)
        for ours, theirs in zip(outputs(model, collator, PROTEINS), outputs(again, collator, PROTEINS), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("kind", "head"), PAIRS)
def test_a_fresh_head_is_the_same_for_the_same_seed_and_neither_zero_nor_huge(build, kind, head):
    config, models = build(kind=kind, head=head)[0].config, []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(ProteinTaskModel(copy.deepcopy(config)))
    weights = [torch.cat([p.detach().flatten() for p in model.head.parameters()]) for model in models[1:]]
    for name, parameter in models[0].head.named_parameters():
        assert torch.equal(parameter, dict(models[1].head.named_parameters())[name])
        assert parameter.isfinite().all()
    assert not torch.equal(*weights)
    for module in models[0].head.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
            bound = np.sqrt(6 / sum(torch.nn.init._calculate_fan_in_and_fan_out(module.weight)))
            assert 0.3 * bound < module.weight.std() < bound
            assert not module.bias.any()


def test_a_frozen_encoder_or_one_without_dropout_stays_in_evaluation_mode(build):
    model, _ = build()
    assert model.train().encoder.training and not model.eval().encoder.training
    model.encoder_dropout = False
    assert not model.train().encoder.training and model.head.training
    model.encoder_dropout = True
    model.encoder.requires_grad_(False)
    assert not model.train().encoder.training and model.head.training


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "ranking"}, "kind must be one of regression, classification, token_classification, got 'ranking'"),
        ({"head": "conv"}, "head must be one of attention, mean, cls for regression, got 'conv'"),
        (
            {"kind": "token_classification", "head": "mean"},
            "head must be one of conv, linear for token_classification, got 'mean'",
        ),
        ({"head_dropout": 1.0}, r"head_dropout must be at least 0 and below 1, got 1.0"),
        ({"head_size": 0}, "head_size must be at least 1, got 0"),
        ({"label_std": 0.0}, "label_std must be positive, got 0.0"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_name(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TaskModelConfig(encoder_config=BertConfig().to_dict(), **options)


@pytest.mark.parametrize(("kind", "head"), [("regression", "attention"), ("token_classification", "conv")])
def test_a_head_has_its_default(kind, head):
    config = TaskModelConfig(kind=kind)
    assert config.head == head and config.head_dropout == (0.5 if head == "attention" else 0.0)


def test_a_model_with_a_head_is_no_encoder_to_start_from(build, tmp_path):
    build()[0].save_pretrained(tmp_path / "task")
    with pytest.raises(CheckpointError, match="which contains an encoder but is not one itself"):
        load_backbone(str(tmp_path / "task"))


def test_an_encoder_from_scratch_has_the_shape_and_other_weights(save_encoder):
    folder = save_encoder("esm")
    trained, _ = load_backbone(folder)
    torch.manual_seed(1)
    fresh, _ = load_backbone(folder, from_scratch=True)
    assert fresh.config.to_dict().keys() == trained.config.to_dict().keys()
    weights = [model.state_dict() for model in (trained, fresh)]
    assert {name: t.shape for name, t in weights[0].items()} == {name: t.shape for name, t in weights[1].items()}
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(weights[0][name], weights[1][name])
