"""Data folders: what is in them, splits, patches and augmentation; and synthetic data."""
