"""Python examples of pages and cards, run one after the other in an interpreter of their own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# This package can only be imported where a snippet names it. Snippets of one group share their names.
_RUNNER = """
import json, sys

def plain(value):
    if hasattr(value, "keys"):
        return {name: plain(value[name]) for name in value.keys()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value

job = json.loads(sys.stdin.read())
groups, results = {}, []
for group, code in job["snippets"]:
    if "adversarial_mlm" in code:
        sys.modules.pop("adversarial_mlm", None)
        sys.path.insert(0, job["root"])
    else:
        sys.modules["adversarial_mlm"] = None
    names, missing = groups.setdefault(group, {}), None
    try:
        exec(code, names)
    except ModuleNotFoundError as error:
        missing = error.name.partition(".")[0]
        if missing not in job["optional"]:
            raise
    found = {name: plain(eval(name, names)) for name in job["keep"] if name.partition(".")[0] in names}
    results.append({"values": found, "missing": missing})
with open("results.json", "w") as file:
    json.dump(results, file)
"""


@dataclass
class SnippetResult:
    """What a snippet left behind.

    Attributes:
        values: Its variables that were asked for, as plain lists, dictionaries and numbers.
        missing: The optional package that is not installed, so that the snippet did not run to its end.
    """

    values: dict[str, Any]
    missing: str | None


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run_snippets(
    snippets: list[tuple[str, str]], folder: Path, keep: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[list[SnippetResult], str]:
    """Run snippets in their order in one isolated interpreter (`python -I`), where this package is hidden from them.

    Args:
        snippets: Group and code of each. Snippets of one group share their variables.
        folder: Working directory.
        keep: Names of variables to give back, also with attributes (`trainer.state.log_history`).
        optional: Packages that may be missing.

    Returns:
        The results of the snippets, and all that they printed.
    """
    job = {"snippets": snippets, "root": str(ROOT), "keep": keep, "optional": optional}
    result = subprocess.run(
        [sys.executable, "-I", "-c", _RUNNER],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        input=json.dumps(job),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [SnippetResult(**found) for found in results], result.stdout
