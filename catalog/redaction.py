"""What of an address may be shown: no password in it, nor a piece of one."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

PASSWORD = re.compile(r"^(?P<before>(?:[^:]*://)?[^:@]*:(?!//))(?P<secret>.*)@", re.DOTALL)
"""Everything between the user's name and the last @, be it a well-formed URL or not."""
UNFINISHED = re.compile(r"^(?P<before>[^:/]*://[^:/@\[\]?#]*:)(?P<secret>(?!\d+(?:[/?#]|$))[^@]+)$", re.DOTALL)
"""What stands where a port would and is none: likely a password without the @ and the host that were to follow."""
SECRET_ARGUMENT = re.compile(r"(?i)(?P<before>[?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)(?P<secret>[^&#\s]*)")
FRAGMENT = 3
"""Letters of a secret in a row that are none by chance."""
MASK = "***"


def redacted(address: str) -> str:
    """Return ``address`` as it may be shown: passwords in it replaced by ``***``."""
    shown = PASSWORD.sub(rf"\g<before>{MASK}@", address)
    shown = UNFINISHED.sub(rf"\g<before>{MASK}", shown) if shown == address else shown
    return SECRET_ARGUMENT.sub(rf"\g<before>{MASK}", shown)


def without_secrets(text: str, address: str) -> str:
    """Return what a library says about ``address`` without its passwords, and without the words that hold a piece of one.

    Libraries that read a password as a host or a port quote what they found of it.
    """
    secrets = {
        match["secret"] for pattern in (PASSWORD, UNFINISHED, SECRET_ARGUMENT) for match in pattern.finditer(address)
    }
    secrets |= {unquote(secret) for secret in secrets}
    secrets |= {value for name, value in parse_qsl(address.partition("?")[2]) if SECRET_ARGUMENT.match(f"?{name}=")}
    secrets -= {""}
    shown = redacted(address)
    parts = [part for whole in text.split(address) for part in (whole, shown)][:-1]
    return "".join(part if part == shown else _masked(part, secrets) for part in parts)


def _masked(text: str, secrets: set[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    pieces = {secret[i : i + FRAGMENT] for secret in secrets for i in range(len(secret) - FRAGMENT + 1)}
    pieces |= {piece for secret in secrets for piece in re.split(r"[@:/?#%&=\s]+", secret) if piece}

    def word(match: re.Match[str]) -> str:
        token: str = match[0]
        return MASK if any(piece in token if len(piece) >= FRAGMENT else piece == token for piece in pieces) else token

    return re.sub(r"[^\s'\"`(),;]+", word, text) if pieces else text
