"""Measurements: what whymatch costs, and what its defaults rest on. Run from the repository's root; never installed."""
