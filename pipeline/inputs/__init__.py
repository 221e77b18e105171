"""Manifests that whymatch itself writes."""
