"""Synthetic H&E-stained tissue with complete truth: the project's sample data."""

from segkit.data.synthetic.write import generate

__all__ = ["generate"]
