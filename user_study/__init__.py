"""Blinded, offline, paired picture sheets; import of their answers; win rates with exact intervals."""
