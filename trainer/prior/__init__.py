"""How the shipped tabletop models were made."""
