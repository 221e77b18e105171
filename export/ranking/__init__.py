"""How a bundle ranks attributes: concept priors and calibration, found on a catalogue. No torch."""
