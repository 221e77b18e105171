"""What is said of a catalogue from a sample of it: sampling, estimates, intervals, nulls, thresholds."""
