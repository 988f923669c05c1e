"""What the votes say."""
