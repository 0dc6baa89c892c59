"""Measuring: what runs on a user's GPUs. It knows nothing of the models of time and memory."""
