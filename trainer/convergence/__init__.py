"""Sudden convergence: since which step a net follows its map."""
