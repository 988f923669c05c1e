"""Models that judge pictures."""
