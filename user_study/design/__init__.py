"""Which rater sees what: pure functions of a salt."""
