"""Pure array functions that measure predictions, and exporters of the results; no torch, no reading of images."""
