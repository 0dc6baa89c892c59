"""A wheel as text: the files of a release, read from the archive and parsed, never imported."""

from __future__ import annotations

import ast
import re
import zipfile
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST_SOURCE = 8 * 2**20
_LARGEST_LIBRARY = 2**30
_FATBIN = b"\x50\xed\x55\xba"
"""First bytes of a container of GPU code in a library (CUDA's fatbinary.h, FATBIN_MAGIC)."""
_MACHINE_CODE = 2
"""Kind of a part of such a container that is machine code, not PTX."""


class MissingFactError(Exception):
    """Says what a wheel does not have, or has in a form that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """The archive of one release."""

    engine: str
    version: str
    root: str
    """Folder that paths are inside of, such as "vllm/"."""
    archive: zipfile.ZipFile
    trees: dict[str, ast.Module] = field(default_factory=dict)

    def source(self, path: str) -> str:
        """Return the text of a file of the package; ``MissingFactError`` where there is none."""
        return self._bytes(path, _LARGEST_SOURCE).decode("utf-8", errors="replace")

    def tree(self, path: str) -> ast.Module:
        """Return a file of the package, parsed."""
        if path not in self.trees:
            try:
                self.trees[path] = ast.parse(self.source(path))
            except (SyntaxError, ValueError) as error:
                raise MissingFactError(f"{path} cannot be parsed: {error}") from None
        return self.trees[path]

    def paths(self, folder: str, suffix: str = ".py") -> list[str]:
        """List the files right in a folder of the package, by name."""
        start = self.root + folder.rstrip("/") + "/"
        names = (name for name in self.archive.namelist() if name.startswith(start) and name.endswith(suffix))
        return sorted(name.removeprefix(self.root) for name in names if "/" not in name.removeprefix(start))

    def capabilities(self, path: str) -> tuple[str, ...]:
        """Return the compute capabilities that a library has machine code for, ascending ("9.0")."""
        data = self._bytes(path, _LARGEST_LIBRARY)
        numbers = sorted({arch for kind, arch in _device_code(data) if kind == _MACHINE_CODE})
        if not numbers:
            raise MissingFactError(f"{path} has no machine code of GPUs")
        return tuple(f"{number // 10}.{number % 10}" for number in numbers)

    def _bytes(self, path: str, most: int) -> bytes:
        try:
            size = self.archive.getinfo(self.root + path).file_size
        except KeyError:
            raise MissingFactError(f"no file {path}") from None
        if size > most:
            raise MissingFactError(f"{path} has {size} bytes, more than the {most} that are read")
        return self.archive.read(self.root + path)


def open_wheel(path: str | Path, roots: dict[str, str]) -> Wheel:
    """Open the wheel of one of the engines in ``roots``, which says in which folder each has its code.

    Raises:
        InputError: no wheel, or of no such engine.

    """
    if not Path(path).is_file():
        raise InputError(
            f"{str(path)!r:.200} is no file; name a wheel, such as vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl"
        )
    try:
        archive = zipfile.ZipFile(path)
        metadata = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        headers = HeaderParser().parsestr(archive.read(metadata[0]).decode("utf-8", errors="replace"))
        engine, version = headers["Name"], headers["Version"]
    except (zipfile.BadZipFile, IndexError, OSError):
        raise InputError(f"{str(path)!r:.200} is no wheel; name a .whl file of {' or '.join(roots)}") from None
    if engine not in roots or not version:
        raise InputError(f"{str(path)!r:.200} is a wheel of {engine!r:.60}; facts are read of {' and '.join(roots)}")
    return Wheel(engine=engine, version=version, root=roots[engine], archive=archive)


def _device_code(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield kind and architecture of each part of each container of GPU code in a library.

    A container has a header of 16 bytes (magic, version, its own size, size of what follows); each part one of its own with its
    kind in bytes 0-2, header size in 4-8, size in 8-16 and architecture in 28-32, little-endian.
    """
    start = data.find(_FATBIN)
    while start >= 0:
        header = int.from_bytes(data[start + 6 : start + 8], "little")
        end = start + header + int.from_bytes(data[start + 8 : start + 16], "little")
        at = start + header
        if header != 16 or end > len(data):  # the same four bytes, by chance
            start = data.find(_FATBIN, start + 4)
            continue
        while at + 32 <= end:
            yield int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 28 : at + 32], "little")
            size = int.from_bytes(data[at + 4 : at + 8], "little") + int.from_bytes(data[at + 8 : at + 16], "little")
            at += max(size, 32)
        start = data.find(_FATBIN, end)


def assigned(body: list[ast.stmt], name: str) -> ast.expr:
    """Return what is assigned to a name in a module or a class; ``MissingFactError`` where nothing is."""
    for node in body:
        match node:
            case ast.Assign(targets=targets, value=value):
                names = {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=only), value=ast.expr() as value):
                names = {only}
            case _:
                continue
        if name in names:
            return value
    raise MissingFactError(f"nothing is assigned to {name}")


def literal(node: ast.expr) -> Any:
    """Return the value of a literal; of ``Field(default=...)`` its default, of ``frozenset(...)`` and ``Literal[...]`` what is in it."""
    if isinstance(node, ast.Call):
        defaults = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
        inside = defaults or node.args
        if len(inside) == 1:
            return literal(inside[0])
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return tuple(ast.literal_eval(part) for part in parts if isinstance(part, ast.Constant))
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise MissingFactError(f"{ast.unparse(node)[:60]!r} is no literal") from None


def class_body(tree: ast.Module, name: str) -> list[ast.stmt]:
    """Return the statements of a class of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node.body
    raise MissingFactError(f"no class {name}")


def function(tree: ast.AST, name: str) -> ast.FunctionDef:
    """Return the first function or method of that name in a module or a class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise MissingFactError(f"no function {name}")
