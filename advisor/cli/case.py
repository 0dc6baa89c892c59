"""One file for "a prediction was wrong": the question, the answer, the user's runs behind it, and versions; no secrets."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalog.borders import write_whole
from catalog.errors import InputError

SCHEMA = 1
PACKAGES = ("advisor", "numpy", "scipy", "numba", "optuna", "pandas")
"""Distributions whose versions can change a number."""
MOST_RUNS = 200
"""Of the user's runs, the latest ones."""
PASSWORD = re.compile(r"(\w+://[^:/@\s\"]+:)[^\s\"]+@")


def write_case(path: str, answer: dict[str, Any]) -> None:
    """Write the case of an answer, as ``to_dict`` gives it, to a JSON file.

    Folders of the user's home are written as "~", and passwords in addresses are left out.

    Raises:
        InputError: the file cannot be written.

    """
    from importlib import metadata  # slow to import, and seldom needed

    import advisor
    from advisor.render.formats import as_json

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    case = {
        "schema": SCHEMA,
        "command": ["advisor", *sys.argv[1:]],
        "answer": answer,
        "runs": [asdict(run) for run in list(advisor.user_runs())[-MOST_RUNS:]],
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform(terse=True)},
    }
    text = PASSWORD.sub(r"\1***@", as_json(case)).replace(str(Path.home()), "~")
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"cannot write --case {path}: {error.strerror}") from error
