"""An audit: options, forecast, the pipeline's chain, and its launch."""
