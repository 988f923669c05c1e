"""One metric a file; each is a pure function of NumPy arrays."""
