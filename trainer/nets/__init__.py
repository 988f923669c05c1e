"""The networks: the frozen prior, the ControlNet and its variants, and what they predict."""
