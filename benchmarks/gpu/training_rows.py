"""Rows that train: the grid of precisions and ways of reading, peers, games, lengths, largest micro-batch."""

import importlib.util
import statistics

import torch
from transformers import DataCollatorWithFlattening, Trainer

from adversarial_mlm.comparison.interleaved_timing import train_interleaved

from ..scaling import flops_of_a_token, flops_of_noiser
from ..training import CountedRows, our_trainer, stock_trainer
from .gates import GAMES
from .setting import Setting
from .steps import measured, steps_of

PRECISIONS = {
    "fp32": {"bf16": False, "tf32": False},
    "tf32": {"bf16": False, "tf32": True},
    "bf16": {"bf16": True},
}
NEVER = 10**9
READINGS = {
    "padded": {"packed_attention": False, "chunk_overhead": NEVER},
    "chunks": {"packed_attention": False},
    "packed": {"packed_attention": True},
    "packed + compile": {"packed_attention": True},
}
_LARGEST = 1 << 22  # tokens of a micro-batch that are tried


def _precision(setting: Setting, name: str) -> dict:
    chosen = dict(PRECISIONS[name])
    if setting.device.type == "cpu":
        chosen.pop("tf32", None)  # which a CPU does not have
    return chosen


def ours(setting: Setting, shape: str, precision: str, reading: str, tokens: int, kind: str = "swiss-prot", **more):
    """Our trainer with random masks, as many proteins per update as have about so many tokens."""
    batch_size, steps = setting.rows(kind, tokens), steps_of(setting)
    options = {**_precision(setting, precision), **READINGS[reading], **more}
    if reading.endswith("compile"):
        options |= setting.compiler
    return our_trainer(
        setting.dataset(kind, batch_size * steps), shape, None, steps,
        batch_size=batch_size, model=setting.encoder(shape), dataloader_num_workers=0 if setting.miniature else 2,
        **options,
    )  # fmt: skip


def grid_row(
    setting: Setting, shape: str, precision: str, reading: str, tokens: int, kind: str = "swiss-prot"
) -> dict:
    """One cell of the grid: real tokens per second, MFU, memory, launches, busy share."""
    return measured(ours(setting, shape, precision, reading, tokens, kind), setting)


PEERS = {
    "stock, random order": {},
    "stock, grouped by length": {"train_sampling_strategy": "group_by_length"},
    "stock, grouped, compiled": {"train_sampling_strategy": "group_by_length"},
    "stock, flattened, flash attention": {},
}


def missing_for_peer(setting: Setting, peer: str) -> str:
    """Why a peer cannot run here; empty if it can."""
    if "flash" not in peer:
        return ""
    if importlib.util.find_spec("flash_attn") is None:
        return "it needs the package flash_attn"
    return "" if setting.device.type == "cuda" else "it needs CUDA"


def _peer(setting: Setting, peer: str, proteins, steps: int, batch_size: int, dropout: dict) -> Trainer:
    options = {**PEERS[peer], **_precision(setting, "bf16")}
    shape = setting.shapes[0]
    encoder = setting.encoder(shape, **dropout)
    if "compiled" in peer:
        options |= setting.compiler
    if "flash" in peer:
        encoder.set_attn_implementation("flash_attention_2")
    trainer = stock_trainer(proteins, shape, steps, batch_size, model=encoder, **options)
    if "flash" in peer:
        flat, masked = DataCollatorWithFlattening(return_flash_attn_kwargs=True), trainer.data_collator

        def flattened(examples: list[dict]) -> dict:
            """Mask each protein on its own, and join them without padding."""
            rows = [masked([{"input_ids": example["input_ids"]}]) for example in examples]
            plain = [{name: row[name][0].tolist() for name in ("input_ids", "labels")} for row in rows]
            return dict(flat(plain))

        trainer.data_collator = flattened
    return trainer


def beside_a_peer(setting: Setting, peer: str, with_dropout: bool) -> dict:
    """Our tokens per second over a peer's, step by step in turns.

    Grouping by length sorts each of transformers' mega-batches, so the runs are as long as one of them.
    """
    number, batch_size = (48, 4) if setting.miniature else (20_000, 128)
    steps = min(number // (4 * batch_size), 50) + 1
    proteins, shape = setting.dataset("swiss-prot", number), setting.shapes[0]
    dropout = {} if with_dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    reading = {} if setting.device.type == "cpu" else READINGS["packed"]
    own = our_trainer(
        proteins, shape, None, steps,
        batch_size=batch_size, model=setting.encoder(shape, **dropout), **_precision(setting, "bf16"), **reading,
    )  # fmt: skip
    trainers = [own, _peer(setting, peer, proteins, steps, batch_size, dropout)]
    counted = [CountedRows(trainer) for trainer in trainers]
    seconds = train_interleaved(trainers)
    first = 1 if setting.miniature else 3
    rates = [
        sum(int(of_step.sum()) for of_step in rows.lengths()[first:]) / sum(spent[first:])
        for rows, spent in zip(counted, seconds, strict=True)
    ]
    return {"tokens_per_s": rates[0], "peer_tokens_per_s": rates[1], "ratio": rates[0] / rates[1]}


def game_over_random(setting: Setting, game: str) -> dict:
    """Seconds of an update of a game over those with random masks, in turns, beside the formula for FLOP."""
    shape, steps, length = setting.shapes[0], steps_of(setting), min(200, setting.longest)
    dataset = setting.dataset("all 512", 256)
    dataset = dataset.map(lambda row: {"sequence": row["sequence"][:length], "length": length})
    batch_size = max(setting.tokens[0] // (length + 2), 2)
    common = {"batch_size": batch_size, "noiser_cosine_steps": 0, **_precision(setting, "bf16")}
    trainers = [our_trainer(dataset, shape, steps=steps, **{**common, **GAMES[name]}) for name in (game, "random")]
    linear, attention = flops_of_a_token(trainers[0].model.config, length + 2)
    nu = flops_of_noiser(trainers[0], length + 2) / (linear + attention)
    share = attention / (linear + attention)
    seconds = [series[setting.warm_up :] for series in train_interleaved(trainers)]
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
        "by_flop": 1 + nu if game == "fast" else (5 + share + 4 * nu) / 3,
    }


def largest_micro_batch(setting: Setting, shape: str) -> dict:
    """Double the tokens of a micro-batch until the memory is full."""
    tokens, found = setting.tokens[-1], {}
    while tokens <= _LARGEST:
        try:
            found = {"tokens": tokens, **grid_row(setting, shape, "bf16", "packed", tokens, "all 512")}
        except torch.OutOfMemoryError:
            return {**found, "too_large": tokens}
        torch.cuda.empty_cache()
        tokens *= 2
    return found
