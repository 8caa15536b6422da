"""bf16, fp16 with its scaler, tf32, checkpointed activations, torch.compile."""

import contextlib
import dataclasses
import shutil
from types import SimpleNamespace

import datasets
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import training_args
from transformers.utils import import_utils

from adversarial_mlm import DataCollatorForAdversarialMLM
from adversarial_mlm.comparison.interleaved_timing import train_interleaved
from adversarial_mlm.masking import corruption, sampling
from adversarial_mlm.masking.keyed_random import row_keys
from adversarial_mlm.masking.losses import loss_weights, token_losses
from adversarial_mlm.models.modeling_noiser import NoiserOutput
from adversarial_mlm.training import noiser_game, precision
from tests.helpers.exhaustive import exhaustive
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of

GAMES = {
    "alternate": {"noiser_steps": 2, "encoder_steps": 2},
    "reversal": {"noiser_update": "reversal"},
    "credit": {"noiser_steps": 2, "encoder_steps": 2, "noiser_reward": "credit"},
}
SAMPLERS = ("rss", "gumbel_topk", "logistic_topk")

# ---- bf16 and tf32 ----


@pytest.fixture
def tf32_put_back():
    yield
    precision.set_tf32(False)


@pytest.fixture
def with_gpus(monkeypatch):
    """GPUs as far as the arguments ask for them; transformers still sees none."""

    def make(*capabilities: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device: capabilities[torch.device(device).index]
        )

    return make


def left_open(**given) -> SimpleNamespace:
    return SimpleNamespace(**{"bf16": None, "tf32": None, "fp16": False, "use_cpu": False, **given})


def test_bf16_and_tf32_are_on_where_all_gpus_have_them_and_the_log_says_so(with_gpus, caplog):
    with_gpus((8, 0), (9, 0))
    args = left_open()
    with caplog.at_level("INFO"):
        precision.resolve_precision(args)
    assert args.bf16 is True and args.tf32 is None and precision.uses_tf32(args) is True
    assert "bf16 is on, because the GPU has it" in caplog.text and "tf32 is on" in caplog.text


@pytest.mark.parametrize(
    ("capabilities", "given", "launched", "expected"),
    [
        ([(9, 0), (7, 5)], {}, "no", (None, None)),  # one of them has none
        ([], {}, "no", (None, None)),
        ([(9, 0)], {"use_cpu": True}, "no", (None, None)),
        ([(9, 0)], {"bf16": False, "tf32": False}, "no", (False, False)),
        ([(9, 0)], {"fp16": True}, "no", (None, True)),
        ([(9, 0)], {}, "fp16", (None, True)),  # what accelerate launch was told
    ],
)
def test_what_was_said_is_honoured(with_gpus, monkeypatch, capabilities, given, launched, expected):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    with_gpus(*capabilities)
    args = left_open(**given)
    precision.resolve_precision(args)
    assert (args.bf16, precision.uses_tf32(args)) == expected


SETTINGS_OF_TF32 = {
    "matmul": lambda: torch.backends.cuda.matmul.fp32_precision,
    "conv": lambda: torch.backends.cudnn.conv.fp32_precision,
    "rnn": lambda: torch.backends.cudnn.rnn.fp32_precision,
    "all": lambda: torch.backends.fp32_precision,
    # older settings, which the compiler reads, and which cannot be read if the newer ones contradict them
    "older, matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
    "older, cudnn": lambda: torch.backends.cudnn.allow_tf32,
    "older, name": torch.get_float32_matmul_precision,
}
TF32 = {True: ["tf32"] * 4 + [True, True, "high"], False: ["ieee"] * 4 + [False, False, "highest"]}


def settings_of_tf32() -> list:
    return [read() for read in SETTINGS_OF_TF32.values()]


@pytest.mark.parametrize(
    "earlier",
    [
        lambda: None,
        lambda: import_utils.enable_tf32.__wrapped__(True),
        lambda: import_utils.enable_tf32.__wrapped__(False),
        lambda: torch.set_float32_matmul_precision("medium"),
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    ],
)
def test_tf32_is_switched_as_often_as_asked_whatever_was_set_before(tf32_put_back, earlier):
    for wanted in (True, False, True, False):
        earlier()
        precision.set_tf32(wanted)
        assert settings_of_tf32() == TF32[wanted] and precision.tf32_is_on() is wanted


def test_the_check_of_packed_rows_can_switch_tf32_off_for_a_while(tf32_put_back):
    for wanted in (True, False):
        precision.set_tf32(wanted)
        with precision.without_tf32():
            assert not precision.tf32_is_on()
        assert precision.tf32_is_on() is wanted


def test_every_run_computes_with_its_own_tf32(make_trainer, monkeypatch, tf32_put_back):
    monkeypatch.setattr(training_args, "is_torch_tf32_available", lambda: True)
    seen = {True: set(), False: set()}

    def make(tf32: bool):
        trainer = make_trainer("random", folder=str(tf32), tf32=tf32, max_steps=2)
        layer = trainer.model.bert.encoder.layer[0]
        layer.register_forward_hook(lambda *_: seen[tf32].add(precision.tf32_is_on()))
        return trainer

    trainers = [make(True), make(False), make(True)]
    for trainer in trainers:
        trainer.train()
    for trainer in reversed(trainers[:2]):
        trainer.evaluate()
    train_interleaved([make(True), make(False)])
    assert seen == {True: {True}, False: {False}}


def test_on_a_cpu_runs_are_in_float32_and_slow_bf16_is_warned_of(make_trainer, monkeypatch, caplog):
    assert make_trainer().args.mixed_precision == "no"
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    make_trainer(folder="fast", bf16=True)
    assert "bf16 is on" not in caplog.text
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    assert make_trainer(folder="slow", bf16=True).args.mixed_precision == "bf16"
    assert "this CPU has neither AMX nor AVX512-BF16" in caplog.text


@pytest.mark.parametrize(
    ("game", "sampler"),
    [*zip(GAMES, SAMPLERS, strict=True)]
    + [exhaustive(game, s) for i, game in enumerate(GAMES) for j, s in enumerate(SAMPLERS) if i != j],
)
def test_sampler_and_loss_stay_in_float32_under_bf16(make_trainer, monkeypatch, game, sampler):
    seen = {}

    def watching(name, function):
        def watched(*args, **kwargs):
            result = function(*args, **kwargs)
            # `_straight_through` reads the noisy option scores, the others the any-mask scores or the losses
            given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.is_floating_point()]
            made = [x for x in (result if isinstance(result, tuple) else (result,)) if isinstance(x, torch.Tensor)]
            seen.setdefault(name, set()).update(x.dtype for x in made if x.is_floating_point())
            if name != "token_losses":  # which is given the encoder's logits, and widens them
                seen[name].update(x.dtype for x in given)
            return result

        return watched

    for module, names in (
        (corruption, ("topk_mask", "_straight_through")),
        (noiser_game, ("token_losses", "loss_weights")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, watching(name, getattr(module, name)))
    for name, functions in list(sampling.SAMPLERS.items()):
        relaxation = functions.relaxation and watching(name, functions.relaxation)
        marginals = watching(f"{name} marginals", functions.marginals)
        watched_ones = dataclasses.replace(functions, marginals=marginals, relaxation=relaxation)
        monkeypatch.setitem(sampling.SAMPLERS, name, watched_ones)
    hidden, losses = [], []
    trainer = make_trainer(bf16=True, max_steps=2, logging_steps=1, masking_rules={"sampler": sampler}, **GAMES[game])
    trainer.model.bert.encoder.layer[0].intermediate.register_forward_hook(lambda m, i, out: hidden.append(out.dtype))
    normalised = trainer.game.normalised
    trainer.game.normalised = lambda *args: (losses.append(normalised(*args)), losses[-1])[1]
    trainer.train()
    assert set(hidden) == {torch.bfloat16}  # the encoder is in bf16, in its own updates and in the noiser's
    assert {loss.dtype for loss in losses} <= {torch.float32, torch.float64}  # the divisor is a float64
    assert {"topk_mask", "token_losses", "loss_weights", f"{sampler} marginals"} <= seen.keys()
    if game != "credit":
        assert "_straight_through" in seen and ("rss" in seen) == (sampler == "rss")
    assert all(dtypes <= {torch.float32} for dtypes in seen.values()), seen
    assert log_of(trainer)[0]["loss"] > 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_matrix_product_is_in_sampler_or_loss_so_that_tf32_reaches_neither(
    tokenizer, make_noiser, proteins, sampler
):
    products = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = str(function)
            if any(part in name for part in ("mm.", "matmul", "linear", "conv", "einsum", "dot")):
                products.append(name)
            return function(*args, **(kwargs or {}))

    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(), max_length=64, sampler=sampler)
    batch = collator([{"sequence": s} for s in proteins[:4]])
    scores = collator.noiser(batch["input_ids"], batch["attention_mask"])
    leaves = [s.detach().requires_grad_() for s in (scores.any_mask_scores, scores.option_scores)]
    keys = row_keys(0, 0, 0, torch.arange(4))
    logits = torch.randn(*batch["input_ids"].shape, 30, requires_grad=True)

    def given(**inputs):
        return NoiserOutput(*leaves)

    with Products():
        corrupted = corruption.corrupt_batch(batch, keys, collator.vocabulary, collator.rules, given, one_hot=True)
        weights = loss_weights(corrupted.masked, batch["residue_mask"], corrupted.choice.importance, 1.0)
        loss = (token_losses(logits, corrupted.labels) * weights).sum()
        (loss + (corrupted.one_hot * logits.detach()).sum()).backward()
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves)
    assert products == []
    with Products():
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert products  # it can see one


# ---- fp16 ----


class Scaled(HookedTrainer):
    """fp16 with a scaler on a CPU, which accelerate has for other devices only."""

    initial_scale = 2.0**10

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.accelerator.state._mixed_precision = "fp16"
        self.accelerator.native_amp = True
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=self.initial_scale)


@pytest.fixture
def scaled(make_trainer):
    """Makes trainers with a scaler, and puts accelerate's shared state back."""
    states = []

    def make(cls=Scaled, **settings):
        trainer = make_trainer(cls=cls, **settings)
        states.append(trainer.accelerator.state)
        return trainer

    yield make
    for state in states:
        state._mixed_precision = "no"


@pytest.mark.parametrize(
    ("game", "optim"),
    [
        ("alternate", "adamw_torch_fused"),
        ("reversal", "adamw_torch"),
        exhaustive("alternate", "adamw_torch"),
        exhaustive("reversal", "adamw_torch_fused"),
        exhaustive("credit", "adamw_torch_fused"),
        exhaustive("credit", "adamw_torch"),
    ],
)
def test_the_scaler_and_the_count_agree_on_what_is_skipped(scaled, game, optim):
    class Huge(Scaled):
        initial_scale = 2.0**40  # too large for float16, so that the first updates overflow

    trainer = scaled(Huge, max_steps=30, logging_steps=30, max_skipped_updates=0, optim=optim, **GAMES[game])
    halvings, taken = [], {"encoder": 0, "noiser": 0}
    judge = trainer.check

    def counted(norms, optimizer):
        skipped = judge(norms, optimizer)
        halvings.append(bool(skipped))
        for network in norms:
            taken[("encoder", "noiser")[network]] += not skipped
        return skipped

    trainer.check = counted
    trainer.train()
    assert 10 < sum(halvings) < len(halvings)
    assert trainer.accelerator.scaler.get_scale() == 2.0 ** (40 - sum(halvings))
    entry = log_of(trainer)[0]
    skipped = entry["skipped_updates"] + entry["noiser_skipped_updates"]
    assert skipped == sum(halvings) * (2 if game == "reversal" else 1)
    for network, module in (("encoder", trainer.model), ("noiser", trainer.noiser)):
        steps = {int(trainer.optimizer.state[p]["step"]) for p in module.parameters() if p in trainer.optimizer.state}
        assert steps == {taken[network]}
    assert all(torch.isfinite(value).all() for value in parameters_of(trainer).values())


def test_fp16_follows_float32(scaled, make_trainer):
    half, hidden = scaled(folder="half", max_steps=3), []
    half.model.bert.encoder.layer[0].intermediate.register_forward_hook(lambda m, i, out: hidden.append(out.dtype))
    half.train()
    full = make_trainer(folder="full", max_steps=3)
    full.train()
    assert set(hidden) == {torch.float16}
    assert log_of(half)[0]["skipped_updates"] == 0
    assert log_of(half)[0]["loss"] == pytest.approx(log_of(full)[0]["loss"], rel=2e-3)


# ---- checkpointed activations ----


@pytest.mark.parametrize("game", GAMES)
def test_checkpointed_activations_change_nothing_but_the_work(make_trainer, monkeypatch, game):
    settings = {
        "double": True,
        "dropout": 0.1,
        "max_steps": 4,
        "encoder_dropout_in_noiser_phase": False,
        **GAMES[game],
    }
    with monkeypatch.context() as usual:  # PyTorch's dropout, which is what checkpoints have
        usual.setattr(noiser_game, "QuickDropout", contextlib.nullcontext)
        plain = make_trainer(folder="plain", **settings)
        plain.train()
    trainer = make_trainer(folder="checkpointed", activation_checkpointing=True, **settings)
    runs = {"encoder": 0, "noiser": 0}
    layer = trainer.model.bert.encoder.layer[0]
    layer.attention.register_forward_hook(lambda *_: runs.update({turn(): runs[turn()] + 1}))
    turn = lambda: "encoder" if trainer.model.training else "noiser"  # noqa: E731
    trainer.train()
    assert largest_difference(parameters_of(plain), parameters_of(trainer)) < 1e-12
    assert runs["encoder"] == 2 * 4  # once forward, once again on the way back
    if game == "alternate":
        assert runs["noiser"] == 2 * 4 + 2 * 2  # four updates, and the comparison of half batches at step 0
    assert not any(module.training for module in trainer.model.eval().modules())


def test_an_encoder_that_came_with_checkpoints_drops_the_same_values_on_the_way_back(make_trainer, monkeypatch):
    settings = {"double": True, "dropout": 0.1, "max_steps": 2}
    checkpointed = make_trainer("random", folder="checkpointed", **settings)
    model = checkpointed.model
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # < 5.23
    enable({"use_reentrant": False})
    checkpointed.train()
    monkeypatch.setattr(noiser_game, "QuickDropout", contextlib.nullcontext)
    plain = make_trainer("random", folder="plain", **settings)
    plain.train()
    assert largest_difference(parameters_of(plain), parameters_of(checkpointed)) < 1e-12


# ---- torch.compile ----


def losses_of(trainer) -> list[dict]:
    names = ("loss", "noiser_reward", "grad_norm", "noiser_grad_norm")
    return [{name: entry[name] for name in names if name in entry} for entry in log_of(trainer)]


@pytest.fixture
def graphs():
    """Counts the graphs that were compiled; what other tests left is forgotten."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.exhaustive
@pytest.mark.parametrize("game, most", [("alternate", 4), ("reversal", 2), ("credit", 4)])
def test_a_compiled_run_has_the_same_losses_and_few_graphs(make_trainer, proteins, graphs, game, most):
    lengths = [12 + (7 * i) % 41 for i in range(80)]
    data = datasets.Dataset.from_dict({"sequence": [p[:n] for p, n in zip(proteins, lengths, strict=False)]})
    settings = {"data": data, "max_steps": 20, "logging_steps": 1, **GAMES[game]}
    plain = make_trainer(folder="plain", **settings)
    plain.train()
    trainer = make_trainer(folder="compiled", torch_compile=True, torch_compile_backend="aot_eager", **settings)
    widths, read = set(), trainer.game.read
    trainer.game.read = lambda model, corrupted, *args, **kwargs: (
        widths.add(corrupted.input_ids.shape[1]),
        read(model, corrupted, *args, **kwargs),
    )[1]
    trainer.train()
    for expected, entry in zip(losses_of(plain), losses_of(trainer), strict=True):
        assert entry == pytest.approx(expected, rel=1e-3)
    assert len(widths) > 4
    assert most / 2 <= graphs() <= most  # of each network's turn one for the first length, and one for all others


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch.compile needs g++ on a CPU")
def test_the_compiler_itself_gives_the_same_losses_in_both_phases(make_trainer, graphs):
    settings = {"max_steps": 2, "logging_steps": 1, **GAMES["alternate"]}
    plain = make_trainer(folder="plain", **settings)
    plain.train()
    trainer = make_trainer(folder="compiled", torch_compile=True, **settings)
    trainer.train()
    assert graphs() == 2
    for expected, entry in zip(losses_of(plain), losses_of(trainer), strict=True):
        assert entry == pytest.approx(expected, rel=1e-3)
