"""The sheets that raters open."""
