"""The dataset-size experiment as one object: nested subsets, several seeds, equal steps and equal epochs."""
