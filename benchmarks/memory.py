"""Measure the peak memory of a job."""

from collections.abc import Callable, Iterable, Iterator

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


def peak_bytes(job: Callable[[], object]) -> float:
    """Return the peak bytes of CPU tensors that a job allocates.

    Raises:
        RuntimeError: If the job allocates no tensor.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        job()
    changes = sorted(_changes(profiler.profiler.kineto_results.experimental_event_tree()))
    held = peak = 0
    for _, size in changes:
        held += size
        peak = max(peak, held)
    if not peak:
        raise RuntimeError("the profiler saw no tensor that the job allocated")
    return float(peak)


def _changes(events: Iterable) -> Iterator[tuple[int, int]]:
    """Yield (time, bytes) of every allocation; negative bytes were freed."""
    for event in events:
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _changes(event.children)
