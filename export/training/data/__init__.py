"""From a catalogue to batches: images, labels, batches, augmentation, and the saliency maps that supervise."""
