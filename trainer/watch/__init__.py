"""What is measured, drawn and logged while a run trains."""
