"""Use a trained encoder or noiser: embeddings of proteins, and scores of variants."""
