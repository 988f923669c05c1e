"""Answers of raters, checked and collected."""
