"""Options, once: a group of them is a frozen dataclass whose field docstrings are the help."""
