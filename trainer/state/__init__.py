"""All that training changes, and checkpoints of it."""
