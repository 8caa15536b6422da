import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from adversarial_mlm.models import loading
from adversarial_mlm.models.loading import CheckpointError, load_backbone, load_encoder, load_noiser
from adversarial_mlm.saving.resume import check_resumable, read_weights

KINDS = ["bert", "prot_bert", "esm", "roberta", "modernbert"]


def cut_short(path) -> None:
    path = Path(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


# ---- a model to start from ----


@pytest.mark.parametrize("kind", KINDS)
def test_any_masked_language_model_loads_with_its_tokenizer(save_encoder, kind):
    folder = save_encoder(kind)
    model, tokenizer = load_encoder(folder)
    assert tokenizer.mask_token_id is not None and {p.dtype for p in model.parameters()} == {torch.float32}


def test_half_precision_weights_are_loaded_in_float32(save_encoder, tmp_path):
    model, _ = load_encoder(save_encoder("bert"))
    model.half().save_pretrained(save_encoder("bert"))
    model, _ = load_encoder(save_encoder("bert"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def without(name):
    return lambda folder: os.remove(f"{folder}/{name}")


def with_text(name, text):
    return lambda folder: Path(folder, name).write_text(text)


def change_json(folder, name, **changes) -> None:
    path = Path(folder, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_config(folder, **changes) -> None:
    change_json(folder, "config.json", **changes)


def without_tokenizer(folder):
    for path in Path(folder).glob("tokenizer*"):
        path.unlink()


def with_a_template_of_unknown_tokens(folder):
    """The library for tokenizers panics where this one is used."""
    template = json.loads(Path(folder, "tokenizer.json").read_text())["post_processor"]
    change_json(folder, "tokenizer.json", post_processor={**template, "special_tokens": {}})


def with_weights_of_an_index(folder, name="pytorch_model.bin"):
    """The index of a sharded model names a pickle, which writes a file where it is loaded."""
    os.rename(f"{folder}/model.safetensors", f"{folder}/model-00001.safetensors")
    torch.save({"bert": Payload(f"{folder}/was_run")}, f"{folder}/{name}")
    index = {"metadata": {}, "weight_map": {"bert.embeddings.word_embeddings.weight": name}}
    Path(folder, "model.safetensors.index.json").write_text(json.dumps(index))


def as_an_adapter(folder):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/something"}
    Path(folder, "adapter_config.json").write_text(json.dumps(adapter))


def with_pickled_weights(folder):
    os.remove(f"{folder}/model.safetensors")
    torch.save({}, f"{folder}/pytorch_model.bin")


def without_a_layer(folder):
    tensors = load_file(f"{folder}/model.safetensors")
    save_file(
        {n: t for n, t in tensors.items() if ".layer.1." not in n}, f"{folder}/model.safetensors", {"format": "pt"}
    )


def with_a_layer_more(folder):
    tensors = load_file(f"{folder}/model.safetensors")
    more = {n.replace(".layer.2.", ".layer.3."): t.clone() for n, t in tensors.items() if ".layer.2." in n}
    save_file({**tensors, **more}, f"{folder}/model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without("config.json"), "which has no config.json"),
        (with_text("config.json", "{"), "could not be loaded .*not a valid JSON file"),
        (lambda folder: change_config(folder, model_type="nonsense"), "model type `nonsense`"),
        (
            lambda folder: change_config(folder, model_type="gpt2"),
            r"of the kind gpt2 and no masked language model|lacks \d+ of its weights",
        ),
        (lambda folder: change_config(folder, intermediate_size=64), r"is 32×16, not 64×16|is 32, not 64"),
        (without("model.safetensors"), "which has no model.safetensors$"),
        (with_pickled_weights, "convert its pickled weights first"),
        (lambda folder: cut_short(f"{folder}/model.safetensors"), "could not be loaded .*file not fully covered"),
        (with_text("model.safetensors", "garbage"), "could not be loaded"),
        (without_a_layer, r"lacks \d+ of its weights, such as bert.encoder.layer.1."),
        (with_text("tokenizer.json", "{"), "whose tokenizer cannot be used"),
        (with_text("tokenizer.json", "{}"), "whose tokenizer cannot be used"),
        (with_a_template_of_unknown_tokens, "whose tokenizer cannot be used"),
        (without_tokenizer, "which has no tokenizer, or one without tokens for residues"),
        (lambda folder: cut_short(f"{folder}/tokenizer.json"), "whose tokenizer cannot be used"),
        (
            lambda folder: change_json(folder, "tokenizer.json", model={"type": "BPE"}),
            "whose tokenizer cannot be used",
        ),
        (
            lambda folder: change_json(folder, "tokenizer_config.json", model_max_length="x"),
            "whose tokenizer cannot be used",
        ),
        (lambda folder: change_config(folder, hidden_size="x"), "could not be loaded .*hidden_size"),
        (
            lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
            "is quantised",
        ),
        (
            lambda folder: change_config(folder, transformers_weights="adapter_model.bin"),
            "adapter_model.bin; use safetensors",
        ),
        (with_weights_of_an_index, "weights are in pytorch_model.bin; use safetensors files"),
        (with_text("model.safetensors.index.json", "[]"), "could not be loaded"),
        (as_an_adapter, "an adapter without adapter_model.safetensors; pickled weights are not read"),
    ],
)
@pytest.mark.parametrize("load", [load_encoder, load_backbone])
def test_a_damaged_model_is_refused_in_one_sentence(save_encoder, damage, sentence, load):
    folder = save_encoder("bert")
    damage(folder)
    if load is load_backbone and damage is without_a_layer:
        sentence = sentence.replace("bert.", "")
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        load(folder)
    assert str(refusal.value).startswith(f"model_name_or_path is {folder}, ") and "\n" not in str(refusal.value)
    assert not Path(folder, "was_run").exists()


@pytest.mark.parametrize("load", [load_encoder, load_backbone, load_noiser])
def test_an_adapter_on_the_hub_is_refused_before_its_model_is_fetched(load):
    cache = Path(os.environ["HF_HOME"], "hub", "models--someone--adapter")
    snapshot = cache / "snapshots" / ("0" * 40) / ("noiser" if load is load_noiser else "")
    snapshot.mkdir(parents=True, exist_ok=True)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / "main").write_text("0" * 40)
    as_an_adapter(snapshot)
    with pytest.raises(
        CheckpointError, match="is someone/adapter, which is an adapter; merge it into its model first"
    ):
        load("someone/adapter")


def test_code_that_comes_with_a_model_is_never_run(save_encoder, tmp_path):
    folder = save_encoder("bert")
    Path(folder, "theirs.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')")
    change_config(folder, model_type="theirs", auto_map={"AutoConfig": "theirs.C", "AutoModelForMaskedLM": "theirs.M"})
    with pytest.raises(CheckpointError, match="needs its own code, which is never run"):
        load_encoder(folder)
    assert not (tmp_path / "was_run").exists()


def test_a_model_without_a_head_gets_one_and_that_is_said(save_encoder, caplog, tmp_path, monkeypatch):
    model, _ = load_encoder(save_encoder("bert"))
    os.remove(tmp_path / "bert" / "model.safetensors")
    model.bert.save_pretrained(tmp_path / "bert")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING"):
        loaded, _ = load_encoder(str(tmp_path / "bert"))
    assert "no masked-language-modelling head: 6 tensors start at random" in caplog.text
    assert torch.equal(loaded.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "two words", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(CheckpointError, match=f"{name}, but there is no such folder"):
        load_encoder(name)


def test_a_path_object_is_as_good_as_its_text(save_encoder, make_noiser, tmp_path):
    folder = Path(save_encoder("bert"))
    assert load_encoder(folder)[0].config.model_type == load_backbone(folder)[0].config.model_type == "bert"
    make_noiser().save_pretrained(tmp_path / "noiser")
    assert load_noiser(tmp_path / "noiser").config.model_type == "adversarial_mlm_noiser"
    for load in (load_encoder, load_backbone, load_noiser):
        with pytest.raises(CheckpointError, match="not/there, but there is no such folder"):
            load(tmp_path / "not" / "there")


def test_a_name_that_the_hub_does_not_give_is_named():
    with pytest.raises(CheckpointError, match="someone/something, which is not a folder on this machine"):
        load_encoder("someone/something")


@pytest.mark.parametrize("cached", [False, True])
def test_a_hub_that_cannot_be_found_is_told_at_once_unless_the_model_is_in_the_cache(cached, monkeypatch, caplog):
    monkeypatch.setattr(loading, "host_without_address", lambda: "hub.example")
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_, **__: "config.json" if cached else None)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    sentence = "hub.example cannot be found" if not cached else "could not be loaded from the Hub"
    with caplog.at_level("WARNING"), pytest.raises(CheckpointError, match=sentence) as refusal:
        load_encoder("runs/nowhere")
    assert str(refusal.value).startswith("model_name_or_path is runs/nowhere, which is not a folder on this machine")
    assert ("HF_HUB_OFFLINE=1 is faster" in caplog.text) == cached


def test_a_noiser_is_not_taken_for_an_encoder(make_noiser, tmp_path):
    make_noiser().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="which is a noiser and not an encoder: give the folder of the encoder"):
        load_encoder(str(tmp_path))


def test_a_revision_of_a_folder_makes_no_sense(save_encoder):
    with pytest.raises(CheckpointError, match="which is a folder; revision v2 applies only to a name on the Hub"):
        load_encoder(save_encoder("bert"), revision="v2")


def test_the_folder_above_a_model_is_told(save_encoder):
    folder = save_encoder("bert")
    with pytest.raises(CheckpointError, match=f"which has no config.json; did you mean {folder}\\?"):
        load_encoder(str(Path(folder).parent))


def test_a_model_of_images_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="which is of the kind vit and no masked language model"):
        load_encoder(str(tmp_path))
    with pytest.raises(CheckpointError, match="which has no files of a tokenizer"):
        load_backbone(str(tmp_path))


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    from transformers import BartConfig, BartForConditionalGeneration

    from adversarial_mlm import build_protein_tokenizer

    sizes = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 8))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=30, d_model=8, max_position_embeddings=64, pad_token_id=0, **sizes, **heads)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    build_protein_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has a decoder; only encoders are supported"):
        load_encoder(str(tmp_path))


# ---- a noiser to start from ----


def test_a_noiser_loads_from_its_folder_and_from_the_model_beside_it(make_noiser, save_encoder):
    folder = save_encoder("bert")
    noiser = make_noiser(view="blind")
    noiser.save_pretrained(f"{folder}/noiser")
    for place in (folder, f"{folder}/noiser"):
        loaded = load_noiser(place)
        assert loaded.config.view == "blind"
        assert all(torch.equal(a, b) for a, b in zip(noiser.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: shutil.rmtree(f"{folder}/noiser"), "is not a noiser and has none in noiser/"),
        (lambda folder: cut_short(f"{folder}/noiser/model.safetensors"), "could not be loaded"),
        (lambda folder: change_config(f"{folder}/noiser", hidden_size=24), "whose weights do not fit its config.json"),
        (lambda folder: change_config(f"{folder}/noiser", view="all"), "view must be one of full, context, blind"),
        (lambda folder: change_config(f"{folder}/noiser", num_hidden_layers=3), r"lacks \d+ of its weights"),
        (lambda folder: change_config(f"{folder}/noiser", hidden_size="x"), "could not be loaded"),
        (lambda folder: change_config(f"{folder}/noiser", quantization_config={"bits": 4}), "is quantised"),
        (
            lambda folder: with_weights_of_an_index(f"{folder}/noiser"),
            "pytorch_model.bin; use safetensors files",
        ),
        (lambda folder: as_an_adapter(f"{folder}/noiser"), "which is an adapter"),
    ],
)
def test_a_damaged_noiser_is_refused_in_one_sentence(make_noiser, save_encoder, damage, sentence):
    folder = save_encoder("bert")
    make_noiser().save_pretrained(f"{folder}/noiser")
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        load_noiser(folder)
    assert str(refusal.value).startswith(f"noiser_name_or_path is {folder}, ") and "\n" not in str(refusal.value)


# ---- a run to continue ----


def optimizer_of(model, noiser=None, kind=torch.optim.AdamW):
    """A group for each network, as in a run."""
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    return kind(groups + ([] if noiser is None else [{"params": list(noiser.parameters())}]), lr=1e-3)


@pytest.fixture
def checkpoint(save_encoder, make_noiser):
    """A folder like a checkpoint of a run, and the networks and tokenizer of that run."""
    folder = save_encoder("bert")
    noiser = make_noiser()
    noiser.save_pretrained(f"{folder}/noiser")
    model, tokenizer = load_encoder(folder)
    Path(folder, "trainer_state.json").write_text('{"global_step": 2}')
    for name in ("scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(1000)}, f"{folder}/{name}")
    optimizer = optimizer_of(model, noiser)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # leaves a mark in the groups, as in a run
    torch.save(optimizer.state_dict(), f"{folder}/optimizer.pt")
    return folder, model, noiser, tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_weights_come_back_whatever_names_they_were_saved_under(save_encoder, tmp_path, kind):
    model, _ = load_encoder(save_encoder(kind))
    torch.manual_seed(1)
    for parameter in model.parameters():  # an ESM that was loaded saves its norms under other names than it has
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "again")
    state = read_weights(str(tmp_path / "again"), model)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], parameter) for name, parameter in model.named_parameters())


def test_weights_come_back_in_the_precision_that_they_have(make_noiser, tmp_path):
    noiser = make_noiser().double()
    noiser.save_pretrained(tmp_path)
    state = read_weights(str(tmp_path), noiser)
    assert all(torch.equal(state[name], parameter) for name, parameter in noiser.named_parameters())
    assert {tensor.dtype for tensor in state.values()} == {torch.float64}


def replace_tensor(path, find, change):
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if find in name)
    tensors[name] = change(tensors[name])
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without("model.safetensors"), "has no model.safetensors"),
        (lambda f: cut_short(f"{f}/model.safetensors"), "has weights that could not be loaded"),
        (lambda f: cut_short(f"{f}/noiser/model.safetensors"), "noiser has weights that could not be loaded"),
        (without_a_layer, "it lacks the tensor bert.encoder.layer.1."),
        (with_a_layer_more, "it also has the tensor bert.encoder.layer.3."),
        (
            lambda f: replace_tensor(f"{f}/model.safetensors", "word_embeddings", lambda t: t[:, :8].contiguous()),
            r"word_embeddings.weight is 30×8 in the checkpoint and 30×16 in this run",
        ),
        (
            lambda f: replace_tensor(f"{f}/noiser/model.safetensors", "score.bias", lambda t: t[:5].clone()),
            r"does not fit this run's NoiserModel: score.bias is 5 in the checkpoint and 23 in this run",
        ),
        (lambda f: shutil.rmtree(f"{f}/noiser"), "has no noiser/ folder, and this run has a noiser"),
        (without("trainer_state.json"), "no trainer_state.json that can be read"),
        (with_text("trainer_state.json", '{"global_st'), "no trainer_state.json that can be read"),
        (with_text("trainer_state.json", "[]"), "without a global_step"),
        (without("optimizer.pt"), "has no optimizer.pt, which a run needs to resume; .*model_name_or_path: "),
        (lambda f: cut_short(f"{f}/optimizer.pt"), "damaged optimizer.pt"),
        (lambda f: cut_short(f"{f}/scheduler.pt"), "damaged scheduler.pt"),
        (lambda f: cut_short(f"{f}/rng_state.pth"), "damaged rng_state.pth"),
        (with_text("tokenizer.json", "{"), "has a tokenizer that could not be loaded"),
        (with_text("tokenizer.json", "{}"), "has a tokenizer that could not be loaded"),
        (with_weights_of_an_index, "pytorch_model.bin; use safetensors files"),
        (as_an_adapter, "which is an adapter"),
        (lambda f: torch.save({"scale": 2.0}, f"{f}/scaler.pt"), "scaler.pt that is not the state of a scaler"),
        (with_text("scaler.pt", "x"), "scaler.pt"),
        (lambda f: torch.save([1], f"{f}/optimizer.pt"), "optimizer.pt that is not the state of an optimizer"),
    ],
)
def test_a_run_does_not_go_on_from_a_damaged_checkpoint(checkpoint, damage, sentence):
    folder, model, noiser, tokenizer = checkpoint

    def go_on():
        check_resumable(folder, noiser, tokenizer, optimizer_of(model, noiser))
        read_weights(folder, model)
        read_weights(f"{folder}/noiser", noiser)

    go_on()
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        go_on()
    assert str(refusal.value).startswith(f"the checkpoint {folder}") and "\n" not in str(refusal.value)


def test_a_run_without_a_noiser_does_not_go_on_from_one_with_a_noiser(checkpoint):
    folder, _, _, tokenizer = checkpoint
    with pytest.raises(CheckpointError, match="has a noiser/ folder, and this run has no noiser"):
        check_resumable(folder, None, tokenizer)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adafactor])
def test_a_run_with_another_optimizer_does_not_go_on(checkpoint, kind):
    folder, model, noiser, tokenizer = checkpoint
    with pytest.raises(
        CheckpointError,
        match=f"was made with another optimizer: .* this run's {kind.__name__} has; use the same optim",
    ):
        check_resumable(folder, noiser, tokenizer, optimizer_of(model, noiser, kind))


def test_an_option_that_a_new_pytorch_gave_an_optimizer_is_no_other_optimizer(checkpoint):
    folder, model, noiser, tokenizer = checkpoint
    optimizer = optimizer_of(model, noiser)
    for group in optimizer.param_groups:
        group["an_option_of_tomorrow"] = True
    check_resumable(folder, noiser, tokenizer, optimizer)


def test_a_run_that_trains_other_parameters_does_not_go_on(checkpoint):
    folder, model, noiser, tokenizer = checkpoint
    for optimizer in (optimizer_of(model), optimizer_of(model.bert.encoder.layer[0], noiser)):
        with pytest.raises(
            CheckpointError, match=r"have 58 \+ \d+ tensors, and those of this run have .*trained_layers"
        ):
            check_resumable(folder, noiser, tokenizer, optimizer)


def test_the_state_of_a_scaler_is_refused_only_where_the_run_has_none(checkpoint):
    folder, _, noiser, tokenizer = checkpoint
    state = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    torch.save({**state, "_growth_tracker": 3}, f"{folder}/scaler.pt")
    check_resumable(folder, noiser, tokenizer, has_scaler=True)
    with pytest.raises(CheckpointError, match="has a scaler.pt, .* but this run has no fp16: set fp16"):
        check_resumable(folder, noiser, tokenizer, has_scaler=False)


def test_a_checkpoint_of_another_kind_is_refused_without_a_report_before(save_encoder, caplog, monkeypatch):
    model, _ = load_encoder(save_encoder("bert"))
    other = save_encoder("modernbert")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with pytest.raises(CheckpointError, match="does not fit this run's BertForMaskedLM"):
        read_weights(other, model)
    assert not caplog.messages


def test_a_checkpoint_with_another_vocabulary_is_refused(checkpoint, save_encoder):
    folder, _, noiser, _ = checkpoint
    _, other = load_encoder(save_encoder("prot_bert"))
    with pytest.raises(
        CheckpointError, match="was made with another vocabulary: the token .* has the id .* in the checkpoint and"
    ):
        check_resumable(folder, noiser, other)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_the_state_of_an_optimizer_is_never_run(checkpoint, tmp_path, name):
    folder, _, noiser, tokenizer = checkpoint
    torch.save({"state": Payload(tmp_path / "was_run")}, f"{folder}/{name}")
    with pytest.raises(
        CheckpointError,
        match=f" {'an' if name[0] == 'o' else 'a'} {name} that contains more than tensors and plain values",
    ):
        check_resumable(folder, noiser, tokenizer)
    Path(folder, name).write_bytes(pickle.dumps(Payload(tmp_path / "was_run")))
    with pytest.raises(CheckpointError, match=name):
        check_resumable(folder, noiser, tokenizer)
    assert not (tmp_path / "was_run").exists()


def test_nothing_here_ever_trusts_remote_code(repository):
    sources = [*repository.glob("adversarial_mlm/**/*.py"), *repository.glob("examples/**/*.py")]
    texts = {path.name: path.read_text() for path in sources}
    assert len(texts) > 20
    assert not [name for name, text in texts.items() if "trust_remote_code=True" in text.replace(" ", "")]
    assert not [name for name, text in texts.items() if "weights_only=False" in text.replace(" ", "")]
