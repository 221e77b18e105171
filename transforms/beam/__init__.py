"""Thin Beam steps around the other rooms, in the order of the data."""
