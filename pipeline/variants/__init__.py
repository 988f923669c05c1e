"""Datasets made of a finished one: damaged, cleaned of damage, or selected from. All share its evaluation split."""
