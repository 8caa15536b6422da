"""A page to play with: which residues of a protein a noiser attacks, and what the encoder answers there."""
