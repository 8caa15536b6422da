"""The networks: tokenizer, noiser, encoder presets, loading and saving them."""
