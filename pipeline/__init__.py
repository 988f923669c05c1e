"""Raw images to a dataset of (image, caption, condition map) triplets."""
