"""Speed and memory compared with peers, in one process: `python -m benchmarks NAME [--json FILE]`."""
