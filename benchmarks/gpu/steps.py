"""Steps of trainers in numbers: tokens, share of the peak, memory, launches."""

import statistics
import time

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedConfig, Trainer, TrainerCallback

from ..scaling import flops_of_a_token
from ..training import CountedRows
from .setting import Setting


class StepSeconds(TrainerCallback):
    """Times each step, and looks at the kernels of the last one, which is not timed.

    Args:
        device (`torch.device`): Where the steps are.
        last (`int`): The last step.
    """

    def __init__(self, device: torch.device, last: int):
        self.seconds: list[float] = []
        self.kernels: list[tuple[float, float]] = []  # start and end in µs
        self.profiled_seconds = 0.0
        self._device, self._last, self._profiler = device, last, None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        seconds = self._now() - self._start
        if self._profiler is None:
            self.seconds.append(seconds)
        else:
            self.profiled_seconds = seconds
            self._profiler.stop()
            events = [e for e in self._profiler.events() if e.device_type == DeviceType.CUDA]
            self.kernels = sorted((e.time_range.start, e.time_range.end) for e in events)
        if state.global_step == self._last - 1 and self._device.type == "cuda":
            self._profiler = profile(activities=[ProfilerActivity.CUDA])
            self._profiler.start()
        self._start = self._now()

    def busy(self) -> float:
        """Share of the profiled step in which a kernel ran."""
        covered, until = 0.0, 0.0
        for start, end in self.kernels:
            covered += max(end - max(start, until), 0.0)
            until = max(until, end)
        return covered / 1e6 / self.profiled_seconds


def flops_of_rows(config: PreTrainedConfig, lengths: torch.Tensor) -> float:
    """FLOP of the encoder's forward and backward pass over rows of some numbers of tokens, without padding."""
    linear, attention_of_one = flops_of_a_token(config, 1)
    lengths = lengths.double()
    return 3.0 * float(linear * lengths.sum() + attention_of_one * lengths.square().sum())


def measured(trainer: Trainer, setting: Setting) -> dict:
    """Train, and return tokens per second, MFU, memory and, on a GPU, launches.

    Args:
        trainer (`Trainer`): With `max_steps` of [`steps_of`].
        setting ([`Setting`]): Sizes.
    """
    cuda = setting.device.type == "cuda"
    config = trainer.model.config
    rows, watch = CountedRows(trainer), StepSeconds(setting.device, steps_of(setting))
    trainer.add_callback(watch)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    lengths = rows.lengths()[setting.warm_up : setting.warm_up + setting.steps]
    seconds = watch.seconds[setting.warm_up : setting.warm_up + setting.steps]
    rates = [int(of_step.sum()) / s for of_step, s in zip(lengths, seconds, strict=True)]
    flops = sum(flops_of_rows(config, of_step) for of_step in lengths) / sum(seconds)
    found = {
        "tokens_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "tokens_per_step": int(sum(int(of_step.sum()) for of_step in lengths) / len(lengths)),
        "model_tflops": flops / 1e12,
    }
    peak = setting.peak_tflops()
    if peak is not None:
        found["mfu"] = flops / 1e12 / peak
    if cuda:
        found["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        found["launches"], found["busy"] = len(watch.kernels), watch.busy()
    return found


def steps_of(setting: Setting) -> int:
    """Steps of a run: to warm up, to time, and one to count kernels."""
    return setting.warm_up + setting.steps + 1
