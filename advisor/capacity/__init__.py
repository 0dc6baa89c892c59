"""How many GPUs, of which kind, for a rate of requests within limits."""
