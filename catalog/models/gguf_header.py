"""The header of a GGUF file: its metadata and what tensors it holds, bounded; no weight is read.

The form is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from catalog.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"GGUF"
MOST_BYTES = 128_000_000
"""Bytes of a header that are read at the most; a vocabulary of 262,000 words and their merges takes 16 million."""
MOST_ITEMS = 3_000_000
"""Items of all arrays together: more than any vocabulary with its scores and merges has."""
MOST_TENSORS = 100_000
MOST_KEPT = 4096
"""Items of an array that are kept; of a longer one the length is."""
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9
BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Name, numbers in a block and bytes of it, by the number of a type (gguf-py/gguf/constants.py ``GGML_QUANT_SIZES``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """What a file says of one tensor."""

    name: str
    shape: tuple[int, ...]
    """Fastest first: a matrix has its inputs before its outputs."""
    kind: str
    size: int
    """Bytes."""

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Metadata and tensors; of long arrays the metadata has the length alone."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read_header(file: Path) -> Header:
    """Read the header of one file.

    Raises:
        InputError: it cannot be read, is no GGUF file, or is larger than any header.

    """
    try:
        with file.open("rb") as opened:
            return _HeaderReader(opened, str(file)).header()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


class _HeaderReader:
    """Takes values off a file one by one and counts what it took."""

    def __init__(self, opened: BinaryIO, where: str) -> None:
        self.opened, self.where = opened, where
        self.left, self.items = MOST_BYTES, MOST_ITEMS

    def header(self) -> Header:
        if self.take(4) != MAGIC:
            raise self.error("does not begin like one")
        version = self.number(4)
        if version not in (2, 3):
            raise self.error(f"version {version} is not known; known: 2 and 3")
        tensors, pairs = self.number(10), self.number(10)
        if tensors > MOST_TENSORS or pairs > MOST_TENSORS:
            raise self.error(f"it would have {max(tensors, pairs)} entries")
        metadata = {self.text(): self.value(self.number(4)) for _ in range(pairs)}
        return Header(metadata=metadata, tensors=tuple(self.tensor() for _ in range(tensors)))

    def error(self, what: str) -> InputError:
        return InputError(f"{self.where} is no GGUF file that is known: {what}")

    def take(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise self.error(f"its header has more than {MOST_BYTES // 10**6} MB")
        data = self.opened.read(size)
        if len(data) < size:
            raise self.error("it is cut off within its header")
        return data

    def number(self, kind: int) -> Any:
        form = NUMBERS[kind]
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number(10)).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind in NUMBERS:
            return self.number(kind)
        if kind != ARRAY:
            raise self.error(f"a value of type {kind}")
        inner, length = self.number(4), self.number(10)
        self.items -= length
        if self.items < 0 or (inner != TEXT and inner not in NUMBERS):
            raise self.error(f"an array of {length} items of type {inner}")
        if inner == TEXT:
            for _ in range(length):
                self.take(self.number(10))
            return length
        data = self.take(length * struct.calcsize(NUMBERS[inner]))
        return [value for (value,) in struct.iter_unpack(NUMBERS[inner], data)] if length <= MOST_KEPT else length

    def tensor(self) -> Tensor:
        name, rank = self.text(), self.number(4)
        if rank > 8:
            raise self.error(f"tensor {name[:60]!r} has {rank} dimensions")
        shape = tuple(self.number(10) for _ in range(rank))
        kind = self.number(4)
        self.number(10)  # where it begins
        if kind not in BLOCKS or math.prod(shape) > 10**13:
            raise self.error(f"tensor {name[:60]!r} of type {kind} and shape {str(shape)[:60]}")
        word, block, size = BLOCKS[kind]
        return Tensor(name=name, shape=shape, kind=word, size=-(-math.prod(shape) // block) * size)
