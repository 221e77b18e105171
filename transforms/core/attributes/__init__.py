"""SANE's half of words: which attribute explains a match, and how its ranking is calibrated."""
