"""What a YAML recipe does."""
