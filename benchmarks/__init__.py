"""Side-by-side timings; each script appends what it measured to RESULTS.md."""
