"""ONNX graphs taken apart and put together: batches, blocks, cuts, composition. No torch."""
