"""What the tests of pushing look at."""

from pathlib import Path

SENT = {
    ".gitattributes", "README.md", "config.json", "metrics.jsonl", "model.safetensors", "noiser/config.json",
    "noiser/model.safetensors", "tokenizer.json", "tokenizer_config.json", "training_args.json",
}  # fmt: skip


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
