"""The PyTorch engine, and its loads."""
