"""Which residues are masked, how, and what they count in the loss."""
