"""Screening: each check returns a reason or passes; nothing is dropped in silence."""
