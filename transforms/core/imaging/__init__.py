"""Bytes to pixels under limits, pixels to the model's frame and back, and what a map says of an image's places."""
