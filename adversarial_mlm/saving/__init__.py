"""What is written to disk or the Hub: checkpoints, manifests, model cards, pushes."""
