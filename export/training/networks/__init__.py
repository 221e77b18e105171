"""The networks that can be trained, their weights and their checkpoints."""
