"""A decoder-only transformer in PyTorch."""
