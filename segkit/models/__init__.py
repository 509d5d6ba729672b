"""Networks, what they need of the input, and the files they live in."""
