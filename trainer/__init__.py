"""A dataset to a trained ControlNet."""
