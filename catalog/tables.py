"""Facts in TOML files: one table an entry, its keys the fields of a dataclass; shipped ones first, then the user's.

Beside its fields an entry may have

    base        another entry of the same kind whose fields it starts from
    aliases     other spellings of the same thing
    ambiguous   names that could mean other things too and are read as this one; a note says so
    variants    full names of other things with the same facts (chat and instruct checkpoints of one shape)
    ambiguity   what to tell the reader beyond the name that was chosen
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from catalog.errors import InputError
from catalog.names import Meaning, closest, squash, suggestion
from catalog.paths import own_tables
from catalog.shipped import built

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")
DATA = Path(__file__).parent / "data"
NAMES = ("aliases", "ambiguous", "variants")
MOST_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One table of a TOML file, not yet a dataclass."""

    name: str
    path: Path
    values: Mapping[str, Any]
    base: str = ""
    aliases: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    ambiguity: str = ""

    @property
    def where(self) -> str:
        return f"{self.path.name}: [{self.name}]"


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """All entries of one kind and the names that lead to them."""

    entries: Mapping[str, Entry]
    meanings: Mapping[str, Meaning] = field(repr=False)
    """By squashed name."""
    made: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False, compare=False)
    """What ``build`` has made of shipped entries: the same object again, which whoever keeps answers by model or GPU knows at once."""

    def meaning(self, name: str) -> Meaning | None:
        return self.meanings.get(squash(name))

    def suggestion(self, name: str, *, otherwise: str) -> str:
        """Return the tail of an error message: the entries closest to ``name`` by any of their spellings, or ``otherwise``."""
        near = closest(name, {spelling: meaning.name for spelling, meaning in self.meanings.items()})
        return f"closest: {', '.join(near)}" if near else otherwise

    def values(self, name: str) -> dict[str, Any]:
        """Return the fields that an entry states; its bases' fields come first."""
        values: dict[str, Any] = {}
        for entry in reversed(self._chain(name)):
            values |= entry.values
        return values

    def build(self, cls: type[T], name: str, /, **own: Any) -> T:
        """Return the dataclass that an entry describes, with ``own`` fields on top."""
        key = (cls, name, *sorted(own.items()))
        if key in self.made:
            return cast("T", self.made[key])
        values = {"name": name, **self.values(name), **own}
        if all(entry.path.is_relative_to(DATA) for entry in self._chain(name)):
            self.made[key] = built(cls, values)
            return cast("T", self.made[key])
        from catalog.borders import checked  # needs pydantic

        return checked(cls, values, self.entries[name].where)

    def _chain(self, name: str) -> list[Entry]:
        """Return an entry and those that it starts from."""
        chain = [self.entries[name]]
        while chain[-1].base:
            entry = chain[-1]
            if entry.base not in self.entries:
                raise InputError(
                    f"{entry.where}: base {entry.base!r} is unknown; {suggestion(entry.base, self.entries)}"
                )
            if len(chain) > len(self.entries):
                raise InputError(f"{chain[0].where}: its bases go round in a circle")
            chain.append(self.entries[entry.base])
        return chain


def table(kind: str) -> CatalogTable:
    """Return the entries of one kind ("models", "gpus"): shipped, then the user's, which add to or replace them."""
    own = own_tables(kind)
    return _table(_shipped(kind), tuple((path, stamp(path)) for path in own))


@cache
def _shipped(kind: str) -> tuple[Path, ...]:
    """Return the shipped files of one kind."""
    return tuple(sorted((DATA / kind).glob("*.toml")))


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file as a dictionary.

    Raises:
        InputError: it cannot be read, is too large, or is not TOML.

    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES // 10**6} MB, too large for a table of facts")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or nested without end
        raise InputError(f"{path} is not a TOML file: {' '.join(str(error).split()) or 'nested too deeply'}") from error


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the resolved type of every field of a dataclass, without bounds."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


@cache
def _table(shipped: tuple[Path, ...], own: tuple[tuple[Path, tuple[int, int]], ...]) -> CatalogTable:
    """Read the table; ``own`` carries each file's time and size, so that an edited file is read again."""
    entries: dict[str, Entry] = {}
    meanings: dict[str, Meaning] = {}
    for paths in (shipped, tuple(path for path, _ in own)):
        read = [entry for path in paths for entry in _entries(path)]
        entries |= {entry.name: entry for entry in read}
        meanings |= {key: meaning for entry in read for key, meaning in _meanings(entry)}
        # last, because "llama-13b" is also the bare name of an older model that few mean by it
        ambiguous = {squash(name): entry.name for entry in read for name in entry.ambiguous}
        meanings |= {key: Meaning(name, name, ambiguous=True) for key, name in ambiguous.items()}
    return CatalogTable(entries, meanings)


def _entries(path: Path) -> Iterable[Entry]:
    for name, values in read_toml(path).items():
        where = f"{path}: [{name}]"
        if not isinstance(values, dict):
            raise InputError(f'{path}: {name!r} stands outside of a table; start with a line such as ["my-{name}"]')
        rest = dict(values)
        lists = {key: _texts(rest.pop(key, []), f"{where}: {key}") for key in NAMES}
        texts = {key: _texts([rest.pop(key, "")], f"{where}: {key}")[0] for key in ("base", "ambiguity")}
        yield Entry(name, path, rest, **lists, **texts)  # type: ignore[arg-type]


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise InputError(f"{where} must be text" if isinstance(value, list) else f"{where} must be a list of names")


def _meanings(entry: Entry) -> Iterable[tuple[str, Meaning]]:
    """Yield the spellings that mean an entry and no other; an organisation's name and the hub's "-hf" are rarely typed."""
    full = [*((name, name) for name in entry.variants), *((name, entry.name) for name in (*entry.aliases, entry.name))]
    for spelling, name in full:
        bare = spelling.rpartition("/")[2]
        for typed in (spelling, bare, bare.removesuffix("-hf")):
            yield squash(typed), Meaning(entry.name, name)


def stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
