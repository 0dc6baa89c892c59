"""Times of single kernels, at the shapes of a model."""
