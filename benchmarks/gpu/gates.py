"""Is what a GPU computes right? Each gate returns figures, and raises if they are wrong."""

import torch
from transformers import TrainerCallback

from adversarial_mlm import DataCollatorForRandomMLM, build_protein_tokenizer
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.masking.random_masks import random_masks
from adversarial_mlm.training.packed_attention import packed_attention, packed_rows
from adversarial_mlm.training.packing_check import pack_attention
from adversarial_mlm.training.precision import set_tf32

from ..step_cost import FAST
from ..training import our_trainer
from .setting import Setting

GAMES = {
    "random": {"game": None},
    "fast": {"game": "fast", "noiser": FAST},
    "paper": {"game": "paper", "noiser_steps": 1, "encoder_steps": 1},
}
_DRAWS = 400
STANDARD_ERRORS = 6.0  # of a mean of 5,120 numbers, of which the largest difference is taken


def packed_is_padded(setting: Setting, shape: str, dtype: torch.dtype | None) -> dict:
    """Logits, gradients and influence of other proteins, as at the start of a run: see `packing_check`."""
    set_tf32(False)
    model = setting.encoder(shape).to(setting.device)
    pack_attention(model, DataCollatorForRandomMLM(build_protein_tokenizer()), dtype)
    return {"agrees": True}


def dropout_keeps_the_mean(device: torch.device, dtype: torch.dtype) -> dict:
    """Attention of packed rows with dropout has, on average, the values that it has without."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 40, dtype=torch.int64)
    mask[1, 24:] = 0
    rows = {
        k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in packed_rows({"attention_mask": mask}).items()
    }
    shape = (1, 2, int(mask.sum()), 16)
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))

    def attended(dropout: float) -> torch.Tensor:
        return packed_attention(torch.nn.Identity(), query, key, value, None, dropout, packed_rows=rows)[0].double()

    plain, draws = attended(0.0), torch.stack([attended(0.1) for _ in range(_DRAWS)])
    assert bool(draws.std(dim=0).min() > 0), "dropout has no effect"
    error = draws.std(dim=0) / _DRAWS**0.5 + plain.abs() * torch.finfo(dtype).eps
    farthest = float(((draws.mean(dim=0) - plain).abs() / error).max())
    assert farthest <= STANDARD_ERRORS, f"a mean is {farthest:.1f} standard errors from the value without dropout"
    return {"farthest_in_standard_errors": farthest}


def masks_are_those_of_the_cpu(device: torch.device, compiler: str | None = None) -> dict:
    """Random masks are a function of the key, on every device, and compiled (by a backend of `torch.compile`)."""
    collator = DataCollatorForRandomMLM(build_protein_tokenizer())
    letters = "ACDEFGHIKLMNPQRSTVWY"
    batch = collator([{"sequence": letters * (1 + i % 7)} for i in range(64)])
    keys = row_keys(0, EVALUATION, 0, torch.arange(64))
    here = collator.corrupt(batch, keys)
    on_device = {name: x.to(device) for name, x in batch.items()}
    compiled = {}
    if compiler is not None:
        function = torch.compile(random_masks, dynamic=True, fullgraph=True, backend=compiler)
        compiled = {"mask_at_random": function}
    there = collator.corrupt(on_device, keys.to(device), **compiled)
    for name in ("input_ids", "labels", "option"):
        different = int((getattr(here, name) != getattr(there, name).cpu()).sum())
        assert not different, f"{different} of {here.labels.numel()} positions differ in {name}"
    return {"positions": here.labels.numel(), "different": 0}


class NoWaits(TrainerCallback):
    """Makes a wait for the GPU an error between the ends of two steps."""

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.first:
            torch.cuda.set_sync_debug_mode("error")
        if state.global_step == self.last:
            torch.cuda.set_sync_debug_mode("default")

    def on_train_end(self, args, state, control, **kwargs):
        torch.cuda.set_sync_debug_mode("default")


def updates_wait_for_nothing(setting: Setting, name: str) -> dict:
    """Three updates of a game, in which PyTorch refuses to wait for the GPU."""
    first, updates = 3, 3
    dataset = setting.dataset("swiss-prot", 64)
    game = {"noiser_cosine_steps": 0, **GAMES[name]}
    trainer = our_trainer(dataset, setting.shapes[0], steps=first + updates + 1, batch_size=8, **game)
    trainer.add_callback(NoWaits(first, first + updates))
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"updates": updates, "waits": 0}
