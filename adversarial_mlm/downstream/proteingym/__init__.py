"""The assays of ProteinGym, scored without training: `benchmark: proteingym`."""
