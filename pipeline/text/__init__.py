"""Tables and counts as text."""
