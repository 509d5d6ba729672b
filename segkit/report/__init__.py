"""Pictures that explain a run: curves, patches, overlays, kernels, overviews. Arrays in, PNG files out."""
