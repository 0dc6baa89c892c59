"""YAML files: those that users write, read and refused with what is wrong with them, and those that a shell is to write."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_FILE = 4 * 2**20
"""Bytes."""


def read_yaml(source: str | Path, what: str) -> Any:
    """Return what a YAML or JSON file holds; ``what``: it is, for messages, such as "a fleet".

    Raises:
        InputError: it is not there, too large, or no YAML.

    """
    import yaml  # slow to import, and only such files need it

    path = Path(source)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: it is larger than {LARGEST_FILE // 2**20} MiB; {what} is a few kB of YAML")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}, which is to be {what}: {error.strerror or error}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as YAML: {reason:.200}") from None


def here_document(name: str, content: Mapping[str, Any]) -> str:
    """Return the lines of a shell that write a YAML file."""
    import yaml  # slow to import, and only such files need it

    return f"cat > {shlex.quote(name)} <<'EOF'\n{yaml.safe_dump(dict(content), sort_keys=False)}EOF"
