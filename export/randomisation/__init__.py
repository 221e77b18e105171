"""Copies of a bundle with random blocks, for the sanity check of a saliency method. No torch."""
