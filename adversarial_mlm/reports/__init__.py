"""What a run looked like."""
