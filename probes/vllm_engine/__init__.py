"""vLLM, probed."""
