"""Saliency methods, one a file, and the contract that they fulfil."""
