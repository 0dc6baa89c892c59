"""Where a user's own facts and runs live."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def home() -> Path:
    """Return ``$ADVISOR_HOME``, or the platform's folder for user data; it need not exist."""
    chosen = os.environ.get("ADVISOR_HOME")
    if chosen:
        return _expanded(chosen, os.environ.get("HOME"))
    return _usual_home(os.environ.get("XDG_DATA_HOME"), os.environ.get("HOME"))


@cache
def _expanded(path: str, *_: str | None) -> Path:
    """Return a path whose "~" is the user's folder, which depends on a variable of the environment."""
    return Path(path).expanduser()


@cache
def _usual_home(*_: str | None) -> Path:
    """Return the platform's folder, which depends on these variables of the environment."""
    from platformdirs import user_data_path  # only needed without $ADVISOR_HOME

    return user_data_path("advisor", appauthor=False)


def own_tables(kind: str) -> tuple[Path, ...]:
    """Return the user's TOML files of one kind ("models", "gpus", "prices"): ``KIND.toml``, then ``KIND/*.toml`` by name."""
    at = home()
    return tuple(path for path in (at / f"{kind}.toml", *_listed(at / kind)) if path.is_file())


def own_runs() -> tuple[Path, ...]:
    """Return the user's files of measured runs, by name."""
    return _listed(home() / "runs", ("*.jsonl", "*.csv"))


def _listed(folder: Path, patterns: tuple[str, ...] = ("*.toml",)) -> tuple[Path, ...]:
    if not folder.is_dir():  # as most often, and quicker to say than to list
        return ()
    return tuple(sorted(path for pattern in patterns for path in folder.glob(pattern)))
