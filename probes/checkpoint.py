"""A checkpoint in safetensors, one file or many behind an index, of which a process reads only its share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from catalog.errors import InputError
from catalog.names import suggestion

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
ALONE = "model.safetensors"


def is_checkpoint(folder: str | Path) -> bool:
    """Return whether a folder holds weights in safetensors."""
    return any((Path(folder) / name).is_file() for name in (INDEX, ALONE))


class Checkpoint:
    """The weights in a folder, as a ``Source``. Files are mapped, so that unread parts cost nothing."""

    def __init__(self, folder: str | Path) -> None:
        """Raise ``InputError`` if the folder has no weights in safetensors, or its index cannot be read."""
        self.folder = Path(folder)
        self.read_bytes = 0
        """Bytes of the parts that were asked for."""
        self._opened: dict[str, Any] = {}
        self._files = self._index() if (self.folder / INDEX).is_file() else None
        if self._files is None:
            if not (self.folder / ALONE).is_file():
                raise InputError(f"{self.folder} has neither {INDEX} nor {ALONE}")
            self._files = dict.fromkeys(self._open(ALONE).keys(), ALONE)

    def part(self, name: str, shape: tuple[int, ...], dim: int, begin: int, end: int) -> torch.Tensor:
        """See ``Source``; in the format of the file."""
        assert self._files is not None
        if name not in self._files:
            raise InputError(f"{self.folder} has no tensor {name}; {suggestion(name, self._files, otherwise='')}")
        try:
            tensor = self._open(self._files[name]).get_slice(name)
            stored = tuple(tensor.get_shape())
            if stored != shape:
                raise InputError(f"{self.folder}: {name} has shape {stored}; by config.json it must be {shape}")
            taken: torch.Tensor = tensor[(*(slice(None),) * dim, slice(begin, end))]
        except SafetensorError as error:
            raise InputError(f"{self.folder}: cannot read {name}: {error}") from error
        self.read_bytes += taken.numel() * taken.element_size()
        return taken

    def _index(self) -> dict[str, str]:
        path = self.folder / INDEX
        try:
            files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            outside = [file for file in files.values() if Path(file).name != file]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no index with a weight_map from tensors to files") from error
        if outside:
            raise InputError(f"{path} names {outside[0]!r:.80}; files must lie beside it")
        return dict(files)

    def _open(self, file: str) -> Any:
        if file not in self._opened:
            try:
                self._opened[file] = safe_open(self.folder / file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise InputError(f"cannot read {self.folder / file}: {error}") from error
        return self._opened[file]
