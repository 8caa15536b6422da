"""Counts what would make the host wait for a device, on a machine that has none.

Some tensors are taken to be on a device: parameters, what `Tensor.to(device)` returns, and whatever is computed from
them. Everything else is on the host, as the batches of the loaders are, and may be read freely.
"""

import traceback
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Trainer, TrainerCallback

# operators whose result has a size that only the device knows, or that read a value back
_WAITING = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.bincount",
    "aten.equal",
    "aten._unique2",
    "aten.unique_dim",
    "aten.unique_consecutive",
}
_INDEXING = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}
_ALLOCATIONS = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.lift_fresh")
_MAKING = {
    *(torch.tensor, torch.as_tensor, torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.eye),
    torch.randint,
}
_READING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}


def _tensors(*values) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class HostWaits:
    """A context in which the waits are counted.

    Args:
        modules: Networks that are on the device.

    Attributes:
        waits: How often which function was called in which line that is not PyTorch's own, as `Counter` of
            `"aten.nonzero in noising.py: the line"`.
        copies: The same of copies to the device that wait for it.
        launches: How often each operator ran on the device, views and allocations left out.
    """

    def __init__(self, *modules: torch.nn.Module):
        self.waits, self.copies, self.launches = Counter(), Counter(), Counter()
        self._storages = {}  # kept, so that no address is used twice
        self._modes = (_Functions(self), _Operators(self))
        self._checks_on_host = 0
        for module in modules:
            self.put(*module.parameters(), *module.buffers())

    def put(self, *tensors: torch.Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = storage

    def holds(self, *values) -> bool:
        return any(tensor.untyped_storage()._cdata in self._storages for tensor in _tensors(*values))

    def launch(self, function) -> None:
        """Count an operator on the device."""
        returns = function._schema.returns
        is_view = bool(returns) and returns[0].alias_info is not None and not returns[0].alias_info.is_write
        if not is_view and not str(function).startswith(_ALLOCATIONS):
            self.launches[str(function)] += 1

    def note(self, counter: Counter, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        frames = [frame for frame in frames if not frame.filename.endswith("host_waits.py")]
        counter[f"{what} in {frames[-1].filename.rsplit('/', 1)[-1]}: {frames[-1].line}"] += 1

    def __enter__(self):
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Functions(TorchFunctionMode):
    """What is called in Python: reads that no operator shows, and copies to the device."""

    def __init__(self, waits: HostWaits):
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, waits = kwargs or {}, self.waits
        if function in _READING and waits.holds(args[0]):
            waits.note(waits.waits, function.__name__)
        if function is torch.nn.functional.one_hot:
            waits._checks_on_host += 1  # on a CPU, and there alone, it looks at the range of its input
        result = function(*args, **kwargs)
        if function is torch.nn.functional.one_hot:
            waits._checks_on_host -= 1
        devices = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.device)]
        if function is torch.Tensor.to and devices and not waits.holds(args[0]):
            if not kwargs.get("non_blocking"):
                waits.note(waits.copies, "to")
            result = result.clone()
            waits.put(result)
        if function in (torch.tensor, torch.as_tensor) and devices:
            waits.note(waits.copies, function.__name__)
        if function in _MAKING and devices:
            waits.put(result)
            waits.launches[function.__name__] += function is not torch.empty
        return result


class _Operators(TorchDispatchMode):
    """What PyTorch runs, the backward pass included."""

    def __init__(self, waits: HostWaits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, waits = kwargs or {}, self.waits
        if waits.holds(args, kwargs):
            name = str(function).rsplit(".", 1)[0]
            by_truth = name in _INDEXING and any(index.dtype == torch.bool for index in _tensors(args[1]))
            if (name in _WAITING and not waits._checks_on_host) or by_truth:
                waits.note(waits.waits, name)
            if name in _INDEXING and not waits.holds(args[1]):
                waits.note(waits.copies, "index on the host")
            waits.launch(function)
            result = function(*args, **kwargs)
            waits.put(*_tensors(result))
            return result
        return function(*args, **kwargs)


class _Between(TrainerCallback):
    """Counts all that happens between the ends of two steps."""

    def __init__(self, waits: HostWaits, first: int, last: int):
        self.waits, self.first, self.last, self.done = waits, first, last, False

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.first:
            self.waits.__enter__()
        if state.global_step == self.last:
            self.waits.__exit__(None, None, None)
            self.done = True


def waits_between(trainer: Trainer, first: int, last: int) -> HostWaits:
    """Train, and count the waits and launches of the updates after step `first` up to step `last`."""
    noiser = getattr(trainer, "noiser", None)
    waits = HostWaits(trainer.model, *([] if noiser is None else [noiser]))
    between = _Between(waits, first, last)
    trainer.add_callback(between)
    trainer.train()
    assert between.done
    return waits
