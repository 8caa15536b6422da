"""Who trains whom, when, with which options."""
