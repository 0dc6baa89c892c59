"""What an address holds beside the values of widgets: files and tables, packed into letters."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

from advisor import InputError

LARGEST = 10**6
"""Bytes of what is packed."""
LONGEST = 16_000
"""Letters of the address that it may take; servers refuse much longer ones."""


def packed(content: Any) -> str:
    """Return plain JSON types as letters of an address."""
    compact = json.dumps(content, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(zlib.compress(compact, 9)).decode().rstrip("=")


def unpacked(text: str, what: str) -> bytes:
    """Return what is packed in an address as JSON; ``what`` names it.

    Raises:
        InputError: there is none in it.

    """
    try:
        opened = zlib.decompressobj()
        content = opened.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), LARGEST)
        whole = opened.eof
    except (ValueError, binascii.Error, zlib.error):
        whole = False
    if not whole:
        raise InputError(f"{what} of the link cannot be read; ask for a new link, or upload the file")
    return content
