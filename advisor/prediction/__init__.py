"""One deployment predicted: evidence, prediction, estimate, curves over the batch, explanation."""
