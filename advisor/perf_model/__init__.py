"""Bytes, operations and seconds: what a deployment takes by physics, with the parameters that runs are fitted to."""
