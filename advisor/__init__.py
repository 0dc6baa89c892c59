"""How to serve an LLM on the GPUs you have."""
