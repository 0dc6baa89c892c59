"""What a file from a browser is called where it lies for a moment."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

MOST = 80
"""Letters."""


def file_name(name: str) -> str:
    """Return a name for a file in a folder of its own: without folders, and with nothing that a message could stumble over."""
    last = PurePosixPath(name.replace("\\", "/")).name
    plain = re.sub(r"[^\w.\- ]", "_", last).lstrip(". ")
    return plain[-MOST:] or "file"
