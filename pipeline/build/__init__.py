"""The build of a dataset: from a source to a finished folder, on Dask."""
