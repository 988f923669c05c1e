"""Checkpoints out of a run and in from elsewhere."""
