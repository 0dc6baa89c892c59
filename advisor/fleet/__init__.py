"""Several models on several kinds of GPUs: which runs where, in which layout, on how many, hour by hour."""
