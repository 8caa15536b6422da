"""The command `adv-mlm`."""
