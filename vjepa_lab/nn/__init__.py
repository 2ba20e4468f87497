"""Modules of the networks: they know tensors and token grids, not batches, runs or configurations."""
