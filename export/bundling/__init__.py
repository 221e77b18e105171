"""Networks to a bundle: preprocessing, perturbing prefix, gradients, and the proof that it computes the same."""
