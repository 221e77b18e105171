"""The training loop of both networks: epochs, validation, early stopping, and going on after a kill to the bit."""
