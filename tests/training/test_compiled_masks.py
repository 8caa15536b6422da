"""Random masks in one compiled graph (`torch_compile`)."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import TorchDynamoPlugin
from torch._inductor.utils import run_and_get_code

from adversarial_mlm import DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.random_masks import random_masks
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.training.compiled_masks import compiled_random_masks
from tests.helpers.host_waits import HostWaits
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of

MASKS = ("input_ids", "labels", "option", "random", "adversarial")
SHAPES = [(4, 40), (7, 131), (32, 510), (3, 16), (1, 60), (5, 1), (33, 200)]  # rows and residues
needs_a_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="the compiler of torch.compile needs g++ on a CPU"
)


def accelerator(backend: str) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(dynamo_plugin=TorchDynamoPlugin(backend=backend)))


@pytest.fixture
def no_graphs():
    """Counts the graphs that were compiled; what other tests left is forgotten."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.fixture
def collator(tokenizer):
    return DataCollatorForRandomMLM(tokenizer, mask_options=(0.5, 0.2, 0.3), random_rate=0.4)


def batch_of(collator, rows: int, residues: int) -> dict[str, torch.Tensor]:
    """Rows of different lengths, of which the second only fills the batch."""
    letters = "ACDEFGHIKLMNPQRSTVWYXB" * 30
    lengths = [max(residues - 3 * i, 1) for i in range(rows)]
    return collator([{"sequence": letters[i : i + n], "filler": i == 1} for i, n in enumerate(lengths)])


def check_masks(collator, compiled) -> None:
    for update, (rows, residues) in enumerate(SHAPES):
        batch = batch_of(collator, rows, residues)
        keys = row_keys(5, ENCODER_PHASE, update, torch.arange(rows))
        expected, found = collator.corrupt(batch, keys), collator.corrupt(batch, keys, mask_at_random=compiled)
        for name in MASKS:
            assert torch.equal(getattr(expected, name), getattr(found, name)), (name, rows, residues)


def test_masks_of_any_size_are_one_graph_without_a_break(no_graphs, collator):
    check_masks(collator, compiled_random_masks(accelerator("EAGER"), collator.rules))
    assert no_graphs() <= 3  # sizes of 1 have their own


@pytest.mark.exhaustive
@pytest.mark.slow
@needs_a_compiler
def test_masks_of_the_compiler_itself_are_bitwise_the_same(no_graphs, collator):
    check_masks(collator, compiled_random_masks(accelerator("INDUCTOR"), collator.rules))


@pytest.mark.exhaustive
@pytest.mark.slow
@needs_a_compiler
def test_a_compiled_graph_launches_less(no_graphs, collator):
    batch, compiled = batch_of(collator, 8, 60), compiled_random_masks(accelerator("INDUCTOR"), collator.rules)
    keys = row_keys(0, ENCODER_PHASE, 0, torch.arange(8))
    given = []
    collator.corrupt(batch, keys, mask_at_random=lambda *inputs: given.extend(inputs) or random_masks(*inputs))
    with HostWaits() as waits:
        waits.put(*(value for value in given if isinstance(value, torch.Tensor)))
        random_masks(*given)
    _, (code,) = run_and_get_code(compiled, *given)
    calls = code[code.index("def call(") :]
    kernels = re.findall(r"^ +cpp_fused\w+\(|= torch\.ops\.aten\.\w+", calls, flags=re.MULTILINE)
    assert waits.launches.total() >= 30 and len(kernels) <= 6, (waits.launches.total(), kernels)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (MaskingRules(0.2), "torch_compile compiles the encoder, and the random masks"),
        (MaskingRules(0.2, positions="span"), "torch_compile compiles the encoder, but not masks of masking: span"),
        (MaskingRules(0.1, adversarial_rate=0.1), "torch_compile compiles the encoder, but not the noiser's masks"),
    ],
)
def test_the_log_says_what_is_compiled(caplog, rules, said):
    with caplog.at_level("INFO"):
        assert compiled_random_masks(accelerator("NO"), rules) is None and not caplog.messages
        compiled = compiled_random_masks(accelerator("EAGER"), rules)
    assert caplog.messages == [said] and (compiled is None) == ("not" in said)


def test_a_compiled_run_has_the_masks_of_another(make_trainer, no_graphs):
    settings = {"max_steps": 2, "logging_steps": 1}
    plain = make_trainer("random", folder="plain", **settings)
    plain.train()
    compiled = make_trainer("random", folder="compiled", torch_compile=True, torch_compile_backend="eager", **settings)
    compiled.train()
    assert compiled.game._compiled_masks is not None
    assert largest_difference(parameters_of(plain), parameters_of(compiled)) < 1e-6
    assert [entry["mask_rate"] for entry in log_of(plain)[:2]] == [e["mask_rate"] for e in log_of(compiled)[:2]]
