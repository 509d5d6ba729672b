"""From labelled images to a model: samples, losses, the loop, checkpoints."""
