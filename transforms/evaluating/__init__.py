"""What a run's explanations are worth, image by image and over a catalogue. No Beam."""
