"""A slide viewer: what a browser asks for, made on demand and served on this machine only; no torch."""
