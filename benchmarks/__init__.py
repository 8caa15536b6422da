"""Speed and memory beside peers, in one run: `python -m benchmarks NAME [--json FILE]`."""
