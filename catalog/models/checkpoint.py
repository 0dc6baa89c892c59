"""The size of a checkpoint as its files state it: ``model.safetensors.index.json`` and the headers of safetensors files.

A header is a length of eight bytes and as much JSON, with each tensor's format, shape and place
(https://huggingface.co/docs/safetensors, "Format"); no weight is read.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.models.json_file import parse_json, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INDEX = "model.safetensors.index.json"
MOST_HEADER = 32_000_000
"""Bytes of a header that are read at the most; safetensors itself takes 100 MB, the largest known header has 6."""
MOST_FILES = 1000
LENGTH = 8
POINTER = b"version https://git-lfs"
"""What a file begins with that Git LFS has not fetched; it says the size of the one it stands for."""
POINTED_SIZE = re.compile(rb"\nsize (\d{1,15})\n")
DTYPES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("F4",), 4),
}
"""Bits of a number in each format of safetensors (``safetensors/src/tensor.rs``, ``Dtype``)."""
PREDICTOR = re.compile(r"(^|\.)(mtp|nextn)(\.|_|$)|multi_token")
LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,5})\.")
OTHER_COPIES = ("consolidated", "original")
"""What files begin with that hold the same weights under the publisher's own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSize:
    """What is loaded of a checkpoint, in bytes."""

    total: int
    by_dtype: tuple[tuple[str, int], ...] = ()
    """Bytes in each format of safetensors, most first; empty where only the total is known."""


def read_checkpoint(folder: Path, *, layers: int, tied: bool) -> CheckpointSize | None:
    """Return the size of the checkpoint in ``folder``, or None where none is there.

    Args:
        folder: holds an index or safetensors files, or both; headers count where files are there, else the index's total.
        layers: of the model; further ones predict several tokens and are not loaded.
        tied: whether the head is the embedding's matrix, so that a copy of it is not loaded.

    Raises:
        InputError: a file is damaged, cut off or too large for what it says it is.

    """
    stated, files = _index(folder)
    present = [folder / name for name in files if (folder / name).is_file()]
    if not files:
        present = sorted(folder.glob("*.safetensors"))
        present = [file for file in present if not file.name.startswith(OTHER_COPIES)]
    if not present or len(present) < len(files):
        return CheckpointSize(total=stated) if stated else None
    if len(present) > MOST_FILES:
        raise InputError(f"{folder} has {len(present)} safetensors files; {MOST_FILES} are read at the most")
    held: Counter[str] = Counter()
    pointed = 0
    for file in present:
        header = _header(file)
        if isinstance(header, int):
            pointed += header
            continue
        for name, dtype, size in _tensors(header, file):
            if _is_loaded(name, layers=layers, tied=tied):
                held[dtype] += size
    if pointed:
        return CheckpointSize(total=stated or pointed)
    return CheckpointSize(total=sum(held.values()), by_dtype=tuple(held.most_common()))


def sum_parameters(counts: Iterable[tuple[str, int]]) -> CheckpointSize | None:
    """Return the size that the hub states, as numbers of each format (``model_info``'s ``safetensors.parameters``)."""
    held = {dtype: number * DTYPES[dtype] // 8 for dtype, number in counts if dtype in DTYPES and number > 0}
    ordered = tuple(sorted(held.items(), key=lambda pair: -pair[1]))
    return CheckpointSize(total=sum(held.values()), by_dtype=ordered) if held else None


def _index(folder: Path) -> tuple[int, list[str]]:
    """Return the total that the index states, 0 where it states none, and the names of the files."""
    file = folder / INDEX
    if not file.is_file():
        return 0, []
    index = parse_json(read_bytes(file), str(file))
    metadata, places = index.get("metadata"), index.get("weight_map")
    total = metadata.get("total_size", 0) if isinstance(metadata, dict) else 0
    if isinstance(total, bool) or not isinstance(total, int | float) or not 0 <= total <= 1e15:
        raise InputError(f"{file}: total_size is {str(total)[:40]!r}; it must be a number of bytes up to 1e15")
    names = set(places.values()) if isinstance(places, dict) and all(map(_is_name, places.values())) else set()
    return int(total), sorted(names)


def _is_name(value: Any) -> bool:
    """Whether it is the name of a file beside the index, and no way out of the folder."""
    return isinstance(value, str) and value.endswith(".safetensors") and not re.search(r"[\\/\0]", value)


def _header(file: Path) -> dict[str, Any] | int:
    """Return the header of one file, or the size that a pointer in its place says."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(LENGTH)
            if POINTER.startswith(begin) and len(begin) == LENGTH:
                size = POINTED_SIZE.search(begin + opened.read(500))
                if size:
                    return int(size[1])
            length = int.from_bytes(begin, "little")
            if len(begin) < LENGTH or not 2 <= length <= MOST_HEADER:
                raise InputError(f"{file} is no safetensors file: its header would have {length} bytes")
            data = opened.read(length)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    if len(data) < length:
        raise InputError(f"{file} is cut off within its header; fetch it again")
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise InputError(f"{file} is no safetensors file: its header holds no JSON object")
    return header


def _tensors(header: dict[str, Any], file: Path) -> Iterable[tuple[str, str, int]]:
    """Yield name, format and bytes of each tensor."""
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = (tensor.get(key) for key in ("dtype", "shape")) if isinstance(tensor, dict) else (None, None)
        whole = isinstance(shape, list) and all(type(size) is int and 0 <= size <= 10**12 for size in shape)
        if not isinstance(dtype, str) or dtype not in DTYPES or not whole or len(shape or ()) > 16:
            raise InputError(f"{file}: tensor {name[:60]!r} has no format and shape that safetensors knows")
        size = math.prod(shape or ()) * DTYPES[dtype] // 8
        if size > 10**15:
            raise InputError(f"{file}: tensor {name[:60]!r} would have {size:.3g} bytes")
        yield name, dtype, size


def _is_loaded(name: str, *, layers: int, tied: bool) -> bool:
    """Whether an engine loads a tensor to serve tokens one at a time."""
    if tied and name.endswith("lm_head.weight"):
        return False
    if PREDICTOR.search(name):
        return False
    number = LAYER.search(name)
    return number is None or int(number[1]) < layers or "visual" in name or "vision" in name
