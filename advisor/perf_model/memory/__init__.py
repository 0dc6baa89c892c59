"""GPU memory of a deployment: weights, KV cache, activations and what an engine keeps, by engine."""
