"""Layers whose weights lie in the host's memory and come to the device whenever their turn comes, as in ZeRO-Inference
(arXiv 2207.00032): while a layer is computed, the next one that lies there is copied into one of two buffers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from catalog.errors import InputError
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from probes.torch_engine.layer import Layer
    from probes.torch_engine.links import LinkTraffic

BUFFERS = 2
"""Layers from the host that have room on the device: one that is computed, one that is copied."""

ALIGNED = 256
"""Each tensor in a buffer begins at a multiple of so many bytes, more than any kernel asks for."""

LEAST_PIECE = 1 << 20
"""Bytes. PyTorch rounds pinned memory up to a power of two, so a layer is kept in pieces that are powers of two, and a
rest of this size at most."""


def offloaded_layers(layers: int, share: float) -> frozenset[int]:
    """Choose which of a model's layers are kept in the host's memory: as many as are nearest to ``share``, but one at
    least if it is above 0. They are spread out, so that others are computed during their copies.
    """
    count = max(1, round(share * layers)) if share else 0
    return frozenset(layer for layer in range(layers) if (layer + 1) * count // layers > layer * count // layers)


def layer_tensors(layer: Layer) -> list[torch.Tensor]:
    """List the tensors of a layer, in the order of its fields."""
    values = [getattr(part, field.name) for part in layer for field in fields(part)]
    opened = [tensor for value in values for tensor in (value if isinstance(value, tuple) else (value,))]
    return [tensor for tensor in opened if tensor is not None]


def refilled(layer: Layer, tensors: Iterable[torch.Tensor]) -> Layer:
    """Return the layer with other tensors, in the order of ``layer_tensors``."""
    left = iter(tensors)

    def fill(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(fill(part) for part in value)
        return None if value is None else next(left)

    attention, block = (
        replace(part, **{field.name: fill(getattr(part, field.name)) for field in fields(part)}) for part in layer
    )
    return attention, block  # type: ignore[return-value]  # each part of the class that it was


@dataclass(frozen=True, slots=True)
class HostLayer:
    """A layer in the host's memory."""

    outline: Layer
    """Its tensors without their numbers, on PyTorch's "meta" device."""
    pieces: tuple[torch.Tensor, ...]
    """Its numbers in one row, cut into pieces without regard to tensors; pinned if they came from a GPU."""

    @classmethod
    def of(cls, layer: Layer) -> HostLayer:
        """Copy a layer that is anywhere into the host's memory.

        Raises:
            InputError: the host has no more memory that can be pinned.

        """
        tensors = layer_tensors(layer)
        some = tensors[0]
        row = torch.zeros(_begins(tensors)[-1], dtype=some.dtype, device=some.device)
        for place, tensor in zip(_places(row, tensors), tensors, strict=True):
            place.copy_(tensor)
        sizes = piece_sizes(len(row), some.dtype.itemsize)
        pinned = some.device.type == "cuda"
        try:
            pieces = [torch.empty(size, dtype=some.dtype, pin_memory=pinned) for size in sizes]
        except RuntimeError as error:
            raise InputError(
                f"the host cannot pin {row.nbytes / GIB:.2f} GiB more, the weights of one layer; lower offload "
                f"({str(error).splitlines()[0]})"
            ) from error
        for piece, part in zip(pieces, row.split(sizes), strict=True):
            piece.copy_(part)
        return cls(refilled(layer, [tensor.to("meta") for tensor in tensors]), tuple(pieces))


class LayerStream:
    """Brings a stage's layers from the host's memory to the device, always in the same order.

    On a GPU copies run on a stream of their own, beside the kernels, recorded in CUDA graphs or not. On a CPU each is made
    when it would be launched.
    """

    def __init__(self, layers: Mapping[int, HostLayer], device: torch.device) -> None:
        """Take ``layers``, at least one, by their place in the stage."""
        hosts = [layers[place] for place in sorted(layers)]
        lengths = [sum(map(len, host.pieces)) for host in hosts]
        dtype = hosts[0].pieces[0].dtype
        buffers = [torch.zeros(max(lengths), dtype=dtype, device=device) for _ in hosts[:BUFFERS]]
        rows = [buffers[number % BUFFERS][:length] for number, length in enumerate(lengths)]
        self._rows = rows
        self._copies = [
            list(zip(row.split([len(piece) for piece in host.pieces]), host.pieces, strict=True))
            for row, host in zip(rows, hosts, strict=True)
        ]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._numbers = {place: number for number, place in enumerate(sorted(layers))}
        self.layers = {
            place: refilled(host.outline, _places(row, layer_tensors(host.outline)))
            for place, host, row in zip(self._numbers, hosts, rows, strict=True)
        }
        """By their place in the stage, as they lie in the buffers, each of which several share."""

    @property
    def nbytes(self) -> int:
        """Return bytes that one pass through the layers copies."""
        return sum(row.nbytes for row in self._rows)

    def through(self, layers: Sequence[Layer], traffic: LinkTraffic) -> Generator[Layer, None, None]:
        """Yield all layers of the stage for one pass; each may be used until the next one is asked for.

        The iterator must be closed if it is left before its end. What is copied is counted in ``traffic``, as "host".
        """
        try:
            arrivals = [self._bring(number, traffic) for number in range(len(self._rows[:BUFFERS]))]
            for place, layer in enumerate(layers):
                number = self._numbers.get(place)
                if number is None:
                    yield layer
                    continue
                if (arrival := arrivals[number]) is not None:
                    torch.cuda.current_stream().wait_event(arrival)
                yield layer
                if number + BUFFERS < len(self._rows):  # into the buffer that the layer was in
                    arrivals.append(self._bring(number + BUFFERS, traffic))
        finally:
            # left early, too: a graph whose recording failed can be ended only when its streams have come together
            if self._stream is not None:
                torch.cuda.current_stream().wait_stream(self._stream)

    def _bring(self, number: int, traffic: LinkTraffic) -> torch.cuda.Event | None:
        """Have a layer copied once all kernels launched so far are done; return an event for when it has arrived."""
        traffic.count("host", self._rows[number])
        if self._stream is None:
            for target, piece in self._copies[number]:
                target.copy_(piece)
            return None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for target, piece in self._copies[number]:
                target.copy_(piece, non_blocking=True)
        return self._stream.record_event()


def piece_sizes(length: int, itemsize: int) -> list[int]:
    """Return the pieces that ``length`` numbers of so many bytes are kept in, the largest first."""
    sizes: list[int] = []
    while (left := length - sum(sizes)) * itemsize > LEAST_PIECE:
        sizes.append(2 ** ((left * itemsize).bit_length() - 1) // itemsize)
    return [*sizes, left] if left else sizes


def _begins(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return where in a row each tensor begins, and where the row ends."""
    unit = ALIGNED // tensors[0].dtype.itemsize
    return [0, *accumulate(-(-tensor.numel() // unit) * unit for tensor in tensors)]


def _places(row: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the place in a row of each tensor, in its shape."""
    begins = _begins(tensors)
    return [row[begin:][: tensor.numel()].view(tensor.shape) for begin, tensor in zip(begins, tensors, strict=False)]
