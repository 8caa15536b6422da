"""How many examples the fuzz tests draw: a few with the tests, the same ones each time, and many with `make fuzz`."""

import os
import random

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
SEED = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(1 << 32)) if EXAMPLES else 0


def fuzz_settings(examples: int) -> settings:
    """Settings of Hypothesis for a fuzz test that draws `examples` with the tests, FUZZ_EXAMPLES with `make fuzz`."""
    return settings(
        max_examples=int(EXAMPLES or examples),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
