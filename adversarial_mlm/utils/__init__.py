"""Atomic files, signals, statistics, errors: what knows nothing of proteins or networks."""
