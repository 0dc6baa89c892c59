"""Values that options share: how they are checked, completed and read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from advisor.simulator.routers import POLICIES, ROUTERS
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWER_FORMATS = ("table", "json", "csv", "yaml", "markdown")
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII)


def catalog_names(kind: str) -> Any:
    """Return a completion: catalog names of one kind, or their parts behind an organisation, that begin with what was typed.

    Shells take only what begins with it letter by letter, so its own letters stay.
    """

    def complete(incomplete: str) -> list[str]:
        from catalog.tables import table  # only while completing

        begun, comma, last = incomplete.rpartition(",")
        typed = last.casefold()
        known = [part for name in table(kind).entries for part in dict.fromkeys((name, name.rpartition("/")[2]))]
        return [f"{begun}{comma}{last}{name[len(last) :]}" for name in known if name.casefold().startswith(typed)]

    return complete


def gpu_names(incomplete: str) -> list[str]:
    """Complete the name behind the count of ``4xA1``."""
    count, times, name = incomplete.rpartition("x")
    known: list[str] = catalog_names("gpus")(name)
    return [f"{count}{times}{gpu}" for gpu in known]


def engine_names(incomplete: str) -> list[str]:
    """Complete the name of an engine."""
    from catalog.engines import all_engines  # only while completing

    return [engine.name for engine in all_engines() if engine.name.startswith(incomplete)]


def use_names(incomplete: str) -> list[str]:
    """Complete the name of a use."""
    from catalog.uses import all_uses  # only while completing

    return [use.name for use in all_uses() if use.name.startswith(incomplete)]


def format_names(incomplete: str) -> list[str]:
    """Complete the name of an answer's format."""
    return [name for name in ANSWER_FORMATS if name.startswith(incomplete)]


def export_names(incomplete: str) -> list[str]:
    """Complete the name of what a deployment is exported as."""
    from advisor.recommendation.launch_command import EXPORT_FORMATS  # only while completing

    return [name for name in EXPORT_FORMATS if name.startswith(incomplete)]


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``, in any case.

    Raises:
        InputError: it is none of them.

    """
    wanted = value.strip().casefold()
    if wanted in choices:
        return wanted
    from difflib import get_close_matches  # only for this message

    near = get_close_matches(wanted, choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"{name} is {value!r:.60}; {hint}it must be one of {', '.join(choices)}")


def checked_format(value: str) -> str:
    """Return the format of an answer, checked."""
    return one_of("--format", value, ANSWER_FORMATS)


def checked_router(value: str) -> str:
    """Return the name of a router, checked."""
    return one_of("--router", value, ROUTERS)


def checked_policy(value: str) -> str:
    """Return the name of a scheduling policy, checked."""
    return one_of("--scheduling-policy", value, POLICIES)


def overrides(pairs: Sequence[str] | None) -> dict[str, float | str] | None:
    """Read the what-if values of ``--set-gpu FIELD=VALUE``.

    Raises:
        InputError: one of them is no such pair, or is given twice.

    """
    values: dict[str, float | str] = {}
    for pair in pairs or []:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise InputError(f"--set-gpu {pair!r:.60} must be FIELD=VALUE, such as memory_bandwidth_gbps=6000")
        if name in values:
            raise InputError(f"--set-gpu gives {name!r:.60} twice")
        values[name] = value
    return values or None


def seconds(text: str) -> float:
    """Read a budget: 90s, 3m, 1h30m, or seconds.

    Raises:
        InputError: it is none, or nothing.

    """
    match = DURATION.fullmatch(text.strip().casefold())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if not 0 < total < 10**8:
        raise InputError(f"--budget is {text!r:.40}; it must be a time such as 90s, 3m or 1h30m")
    return total


def numbers(name: str, values: Sequence[str] | None) -> tuple[int, ...]:
    """Read whole numbers from options such as ``--tp 1,2 --tp 4``, each once, in their order.

    Raises:
        InputError: one of them is no whole number above 0.

    """
    read: dict[int, None] = {}
    for part in (part.strip() for value in values or () for part in value.split(",")):
        if not part.isdecimal() or not part.isascii() or int(part[:12]) == 0:
            raise InputError(f"{name} has {part!r:.40}; it must be whole numbers above 0, such as 1,2,4")
        read[int(part[:12])] = None
    return tuple(read)
