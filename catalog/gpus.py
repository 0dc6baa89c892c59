"""GPUs by name, what-if changes to them, and clusters as people write them ("4xA100", "2x8xH100")."""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from catalog.bounds import check_gpu
from catalog.errors import InputError, Note, Resolved
from catalog.names import suggestion
from catalog.quantities import COUNT as WHOLE
from catalog.quantities import GIBIBYTES, GIGABYTES_PER_SECOND, Quantity
from catalog.schema import Cluster, Gpu, require_positive
from catalog.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_GPUS = 65_536
FABRIC = {
    "network_gbps": GIGABYTES_PER_SECOND,
    "leaf_nodes": WHOLE,
    "oversubscription": Quantity(noun="a ratio", examples="1 or 4", units={"": 1.0, "x": 1.0}),
}
"""What of a cluster, not of its GPUs, may be stated."""
NO_GPU = "CPU"
"""What stands for the GPU in runs of a machine without any, unless the user's own tables say what such a machine is."""
FIXED = {"name", "vendor", "notes", "source"}
VENDOR = re.compile(r"^(nvidia|amd|tesla|geforce|instinct)[\s_\-]+", re.IGNORECASE)
TIMES = r"\s*[xX×*]\s*"  # noqa: RUF001  people paste the sign from datasheets
UNITS = {"_gib": GIBIBYTES, "_gbps": GIGABYTES_PER_SECOND}
"""What a field may be written in, by how its name ends."""
NODES = re.compile(rf"(-?\d+){TIMES}(-?\d+){TIMES}(\S.*)")
COUNT = re.compile(rf"(-?\d+)(?:{TIMES}|\s+)(\S.*)")
COLON = re.compile(r"(.*\S)(?:\s*:\s*|\s+[xX×*]\s*|(?<=\d)[x×*])(-?\d+)")  # noqa: RUF001
MIXTURE = re.compile(r"\d+\s*[xX×*].*\S\s*\+\s*\d+\s*[xX×*].*")  # noqa: RUF001
EXAMPLES = "write it like 4xA100, A100:4, 8xH100-80GB or 2x8xH100 (nodes x GPUs)"


def find_gpu(name: str) -> Resolved[Gpu]:
    """Return the GPU that ``name`` means; ``nvidia-smi``'s names count too.

    A name that could mean several ("A100") is read as one of them, and the notes say which.

    Raises:
        InputError: nothing of that name; the message has the closest ones.

    """
    gpus = table("gpus")
    typed = " ".join(name.split())  # on one line, as messages are
    plain = typed
    while gpus.meaning(plain) is None and VENDOR.match(plain):
        plain = VENDOR.sub("", plain, count=1)
    meaning = gpus.meaning(plain)
    if meaning is None:
        near = gpus.suggestion(plain, otherwise=f"known: {', '.join(gpus.entries)}")
        raise InputError(f'unknown GPU "{typed}"; {near}')
    gpu = check_gpu(gpus.build(Gpu, meaning.entry, name=meaning.name))
    hint = gpus.entries[meaning.entry].ambiguity
    if not meaning.ambiguous:
        return Resolved(gpu)
    return Resolved(gpu, (Note(f'"{typed}" read as {gpu.name}' + (f" ({hint})" if hint else "")),))


def is_no_gpu(name: str) -> bool:
    """Return whether a run was measured without a GPU, of which no model of time tells anything."""
    return name == NO_GPU and table("gpus").meaning(name) is None


def all_gpus() -> tuple[Gpu, ...]:
    """Return every GPU of the catalog, the user's included, in the order of the files."""
    gpus = table("gpus")
    return tuple(check_gpu(gpus.build(Gpu, name)) for name in gpus.entries)


def with_overrides(gpu: Gpu, overrides: Mapping[str, float | str | bool]) -> Gpu:
    """Return a GPU that differs from ``gpu`` in some fields; its name says in which.

    Values may be text, as typed on a command line.

    Raises:
        InputError: no such field (with the closest ones), or a value of the wrong type or out of bounds.

    """
    if not overrides:
        return gpu
    from catalog.borders import checked_text  # needs pydantic

    free = [field.name for field in fields(Gpu) if field.name not in FIXED]
    for name in overrides:
        if name not in free:
            raise InputError(f"a GPU has no {name!r} to set; {suggestion(name, free, otherwise=', '.join(free))}")
    typed = {name: str(_bare(name, value)) for name, value in overrides.items()}
    changed = checked_text(Gpu, asdict(gpu) | typed, gpu.name)
    said = ", ".join(f"{name}={_shown(getattr(changed, name))}" for name in overrides)
    return check_gpu(replace(changed, name=f"{gpu.name} ({said})"))


def parse_cluster(text: str, overrides: Mapping[str, float | str] | None = None) -> Resolved[Cluster]:
    """Return the cluster that ``text`` means: a count and a GPU, in any of the usual spellings, one GPU without a count.

    More GPUs than one server usually holds become several nodes of equal size, and a note says so. ``overrides`` are
    fields of the GPU to change (``with_overrides``), or of the network: a key of ``FABRIC``.

    Raises:
        InputError: not a cluster, an unknown GPU, or a count that is 0, negative, huge or does not divide into nodes.

    """
    nodes, count, name = _split(text)
    shown = " ".join(text.split())
    resolved = find_gpu(name)
    changes = dict(overrides or {})
    network: dict[str, Any] = {
        name: value for name in FABRIC if (value := _fabric(name, changes.pop(name, None))) is not None
    }
    gpu, notes = with_overrides(resolved.value, changes), list(resolved.notes)
    for what, number in (("number of nodes", nodes), ("number of GPUs", count), ("number of GPUs", nodes * count)):
        if not 0 < number <= MOST_GPUS:
            raise InputError(f'"{shown}": {what} is {number}; it must be from 1 to {MOST_GPUS}')
    most = gpu.gpus_per_node
    if nodes == 1 and count > most and not NODES.fullmatch(shown):
        if count % most:
            below, above = count // most * most, -(-count // most) * most
            raise InputError(
                f'"{shown}": servers hold {most} {gpu.name} and {count} does not divide into them; '
                f"use {below} or {above}, or say nodes x GPUs"
            )
        nodes, count = count // most, most
        notes.append(Note(f"{nodes * count} {gpu.name} taken as {nodes} nodes x {count}"))
    elif count > most:
        notes.append(Note(f"{count} {gpu.name} in one node is more than the usual {most}"))
    if gpu.vendor == "cpu":
        notes.append(Note(f"each socket of {gpu.name} counts as a GPU"))
    return Resolved(Cluster(gpu=gpu, gpus_per_node=count, nodes=nodes, **network), tuple(notes))


def counted_in(text: str) -> bool:
    """Whether ``text`` says how many GPUs, rather than a kind alone."""
    plain = " ".join(text.split())
    return any(pattern.fullmatch(plain) for pattern in (NODES, COUNT, COLON))


def _split(text: str) -> tuple[int, int, str]:
    """Return nodes, GPUs a node, and the GPU's name."""
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"no GPUs named; {EXAMPLES}")
    text = " ".join(text.split())
    if len(text) > 200:
        raise InputError(f"GPUs are described in {len(text)} letters; {EXAMPLES}")
    if MIXTURE.fullmatch(text):
        kinds = ",".join(part.strip() for part in text.split("+"))
        raise InputError(
            f'"{text}" mixes kinds of GPUs, which no one deployment spans; name them apart with a comma, as {kinds}, to compare '
            "them, or ask advisor fleet to share models out among them"
        )
    if match := NODES.fullmatch(text):
        return int(match[1]), int(match[2]), match[3]
    if match := COUNT.fullmatch(text):
        return 1, int(match[1]), match[2]
    if match := COLON.fullmatch(text):
        return 1, int(match[2]), match[1]
    if re.match(r"-?[\d.]+" + TIMES, text):
        raise InputError(f'"{text}" is no number of GPUs; {EXAMPLES}')
    return 1, 1, text


def _fabric(name: str, value: float | str | None) -> float | None:
    """Return a number of the network between nodes, checked; None where none is given."""
    if value is None:
        return None
    quantity = FABRIC[name]
    number = quantity.read(value, name)
    require_positive(name, number, most=10**6, whole=quantity.whole)
    if name == "oversubscription" and number < 1:
        raise InputError(f"oversubscription is {number:g}; it must be 1 (none) or more, such as 4 for 4:1")
    return number


def _bare(name: str, value: float | str | bool) -> float | str | bool:
    """Return a value in the field's own unit, where it is written in another: 80GB, 3.35TB/s."""
    for suffix, quantity in UNITS.items():
        if name.endswith(suffix) and isinstance(value, str) and value.strip()[-1:].isalpha():
            return quantity.read(value, name)
    return value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


assert {field.name for field in fields(Gpu)} >= FIXED
