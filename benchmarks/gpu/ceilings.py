"""What the device and the libraries can do at most."""

import time

import torch

from adversarial_mlm.training.packed_attention import packed_rows, use_packed_attention
from adversarial_mlm.training.precision import set_tf32

from ..measuring import seconds
from .setting import Setting
from .steps import flops_of_rows


def product(setting: Setting, dtype: torch.dtype, tf32: bool = False) -> dict:
    """The best of square matrix products, in TFLOP/s."""
    found = {}
    set_tf32(tf32)
    try:
        for size in (64, 128) if setting.miniature else (4096, 8192, 16384):
            a, b = (torch.randn(size, size, device=setting.device).to(dtype) for _ in range(2))
            seconds(lambda a=a, b=b: a @ b, times=3)
            found[f"of_{size}"] = 2.0 * size**3 / seconds(lambda a=a, b=b: a @ b, times=10) / 1e12
    finally:
        set_tf32(False)
    return {"tflops": max(found.values()), **found}


def copy(setting: Setting) -> dict:
    """Bytes that are read and written in a second, in GB/s."""
    size = 1 << (16 if setting.miniature else 30)
    source = torch.ones(size, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    seconds(lambda: target.copy_(source), times=3)
    return {"gb_per_s": 2 * size / seconds(lambda: target.copy_(source), times=10) / 1e9}


def bare_loop(setting: Setting, shape: str, tokens: int) -> dict:
    """Tokens per second of a compiled loop of packed rows, without masks, data or checks: what is there to reach."""
    model = setting.encoder(shape).to(setting.device)
    use_packed_attention(model)
    lengths = torch.as_tensor(setting.lengths("swiss-prot", setting.rows("swiss-prot", tokens)) + 2)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    rows = packed_rows({"attention_mask": mask})
    rows = {k: v.to(setting.device) if isinstance(v, torch.Tensor) else v for k, v in rows.items()}
    ids = torch.randint(5, 25, (1, int(lengths.sum())), device=setting.device)
    positions = rows["positions"][None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=setting.device.type == "cuda")

    def loss_of(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with torch.autocast(setting.device.type, torch.bfloat16):
            return model(input_ids=ids, position_ids=positions, packed_rows=rows, labels=ids).loss

    compiled = torch.compile(loss_of, dynamic=False, backend="eager" if setting.miniature else "inductor")

    def step() -> None:
        compiled(ids, positions).backward()
        optimizer.step()
        optimizer.zero_grad()

    start = time.perf_counter()
    seconds(step, times=setting.warm_up)
    of_a_step = seconds(step, times=setting.steps)
    flops = flops_of_rows(model.config, lengths) / of_a_step / 1e12
    peak = setting.peak_tflops()
    return {
        "tokens_per_s": int(lengths.sum()) / of_a_step,
        "model_tflops": flops,
        **({} if peak is None else {"mfu": flops / peak}),
        "with_compilation_s": time.perf_counter() - start,
    }
