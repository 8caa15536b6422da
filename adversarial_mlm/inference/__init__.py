"""What a trained encoder or noiser tells about proteins: embeddings and scores."""
