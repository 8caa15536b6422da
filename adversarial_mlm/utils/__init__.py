"""Atomic files, signals, statistics, errors and other code that does not depend on proteins or networks."""
