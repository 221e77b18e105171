"""The recipes of SANE's two networks. Torch lives here."""
