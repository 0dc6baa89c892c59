"""Probes of GPUs, engines and servers: what is run, in which order, and how it becomes runs."""
