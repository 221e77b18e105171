"""Published data sets, read in the layout that they come in, as a catalogue and as manifests of pairs."""
