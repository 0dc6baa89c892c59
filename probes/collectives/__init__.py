"""Times of collectives between the GPUs of one machine."""
