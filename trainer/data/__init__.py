"""Training samples: cached latents, maps and captions, in an order that resumes anywhere."""
