#!/usr/bin/env python
"""The page of `adv-mlm demo` as a Space of the Hub, or on this machine.

    python examples/space/app.py              # the model of `make demo`, in runs/demo
    python examples/space/app.py runs/mine

On a Space, set the variable MODEL to the name of your model on the Hub. Visitors can't choose another one there.
"""

import os
import sys
import threading
from pathlib import Path

DEMO = str(Path(__file__).resolve().parents[2] / "runs" / "demo") if "SPACE_ID" not in os.environ else ""


def main() -> None:
    """Start the page, and wait."""
    model = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("MODEL", DEMO)
    if not model:
        raise SystemExit("MODEL is not set: set this variable of the Space to the name of your model on the Hub")
    from adversarial_mlm.space.networks import NetworkStore
    from adversarial_mlm.space.page import build_page, launch

    page = build_page(NetworkStore(model, only_default="SPACE_ID" in os.environ))
    print(launch(page, host=None), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
