"""Models by name: the shipped catalog, a user's own, a ``config.json``, or the Hugging Face hub."""
