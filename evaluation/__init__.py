"""A run and a dataset to results: pictures, metrics with intervals, tables and a report."""
