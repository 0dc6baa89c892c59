"""Text on the pages: names and messages may hold anything, and Markdown must show it as it is."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """Return ``text`` as Markdown that shows it as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def capitalised(text: str) -> str:
    """Return ``text`` as the beginning of a sentence."""
    return text[:1].upper() + text[1:]
