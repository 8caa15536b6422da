"""What the trainer's tests look at."""

import json

import torch


def parameters_of(trainer) -> dict[str, torch.Tensor]:
    networks = {"encoder": trainer.model, "noiser": trainer.noiser}
    return {
        f"{network}.{name}": value.detach().clone()
        for network, module in networks.items()
        if module is not None
        for name, value in module.named_parameters()
    }


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def log_of(trainer) -> list[dict]:
    with open(f"{trainer.args.output_dir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]
