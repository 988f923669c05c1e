"""Measured quality and cards of the embedded prior."""
