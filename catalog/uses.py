"""Workloads as people name them: chat, rag, agent, summarise, batch, code; the user's own beside those that ship."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from catalog.errors import InputError
from catalog.names import squash, suggestion
from catalog.paths import own_tables
from catalog.schema import Count, Share  # noqa: TC001  read where files are checked
from catalog.tables import DATA, read_toml

Positive = Annotated[float, Interval(gt=0, le=1e9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one kind of use asks of a deployment, where nothing else is stated."""

    name: str
    words: str
    """What it is, for people."""
    input_len: Count
    output_len: Count
    spread: Annotated[float, Interval(ge=0, le=3)] = 0.0
    """Coefficient of variation of both lengths."""
    prefix_hit_rate: Share = 0.0
    """Share of each prompt found in the prefix cache."""
    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    think_time_s: Positive | None = None
    """Seconds from one user's answer to the next request."""
    source: str
    aliases: tuple[str, ...] = ()


def all_uses() -> tuple[Use, ...]:
    """Return every use that is known, the user's own (``$ADVISOR_HOME/uses.toml``) in place of those of the same name."""
    return _uses(tuple(map(str, own_tables("uses"))))


@cache
def _uses(own: tuple[str, ...]) -> tuple[Use, ...]:
    from catalog.borders import checked  # needs pydantic

    uses: dict[str, Use] = {}
    for path in (DATA / "uses.toml", *map(Path, own)):
        rows = read_toml(path).get("uses", {})
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise InputError(f"{path}: uses must be tables that start with [uses.NAME]")
        for name, row in rows.items():
            uses[name] = checked(Use, {"name": name, **row}, f"{path}: use {name}")
    return tuple(uses.values())


def find_use(name: str) -> Use:
    """Return the use that ``name`` means.

    Raises:
        InputError: there is none; the message has those that are known.

    """
    uses = all_uses()
    spelled = {squash(spelling): use for use in uses for spelling in (use.name, *use.aliases)}
    if squash(name) in spelled:
        return spelled[squash(name)]
    known = ", ".join(use.name for use in uses)
    near = suggestion(name, [use.name for use in uses])
    raise InputError(f'no use "{" ".join(name.split())[:60]}"; {f"{near}; " if near else ""}known: {known}')
