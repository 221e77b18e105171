"""From a trained network, or anybody's ONNX file, to a bundle."""
