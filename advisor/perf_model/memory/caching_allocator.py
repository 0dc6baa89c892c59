"""PyTorch's caching allocator, played through: how much of a GPU it holds is more than what it has handed out.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (PyTorch 2.11, default settings, one stream): sizes rounded to 512
bytes; requests up to 1 MiB from segments of 2 MiB, others below 10 MiB from segments of 20 MiB, larger ones from segments
of their own, rounded to 2 MiB; of the free blocks the smallest that is large enough; its rest is split off if it is at
least 512 bytes (of a small block) or more than 1 MiB; free neighbours are joined.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from catalog.units import MIB

UNIT = 512
SMALL = MIB
"""Most bytes of a request that is served from small segments, and least that is left of a large block, exclusive."""
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
LEAST_OWN = 10 * MIB
"""Requests of so many bytes have segments of their own."""
APART = 64 * MIB
"""Between segments, so that no two are neighbours."""


class OutOfDeviceMemoryError(MemoryError):
    """The device has no room for a segment, and nothing unused could be given back."""


@dataclass(slots=True)
class _Block:
    size: int
    small: bool
    before: int | None = None
    after: int | None = None
    free: bool = False


class CachingAllocator:
    """Blocks are known by their addresses."""

    def __init__(self, limit: float = float("inf")) -> None:
        """Start empty; ``limit`` is what the device has for segments, in bytes."""
        self.limit = limit
        self.reserved = 0
        """Bytes of all segments."""
        self._next = 0
        self._blocks: dict[int, _Block] = {}
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}

    def copy(self) -> CachingAllocator:
        """Return another one that holds the same."""
        other = CachingAllocator(self.limit)
        other.reserved, other._next = self.reserved, self._next
        other._blocks = {
            address: _Block(block.size, block.small, block.before, block.after, block.free)
            for address, block in self._blocks.items()
        }
        other._free = {small: list(pool) for small, pool in self._free.items()}
        return other

    def take(self, size: int) -> int:
        """Return the address of a block of at least ``size`` bytes.

        Raises:
            OutOfDeviceMemoryError: there is none, and giving back what is unused does not make room.

        """
        size = max(UNIT, -(-size // UNIT) * UNIT)
        small = size <= SMALL
        pool = self._free[small]
        place = bisect_left(pool, (size, -1))
        address = pool.pop(place)[1] if place < len(pool) else self._segment(size, small=small)
        block = self._blocks[address]
        rest = block.size - size
        if rest >= UNIT if small else rest > SMALL:
            self._blocks[address + size] = _Block(rest, small, before=address, after=block.after, free=True)
            if block.after is not None:
                self._blocks[block.after].before = address + size
            block.size, block.after = size, address + size
            insort(pool, (rest, address + size))
        block.free = False
        return address

    def give(self, *addresses: int) -> None:
        """Free blocks."""
        for address in addresses:
            block = self._blocks[address]
            block.free = True
            whole = address
            if block.before is not None and self._blocks[block.before].free:
                whole = block.before
                self._join(whole)
            after = self._blocks[whole].after
            if after is not None and self._blocks[after].free:
                self._join(whole)
            insort(self._free[block.small], (self._blocks[whole].size, whole))

    def give_back(self) -> None:
        """Return segments without a used block to the device (``torch.cuda.empty_cache``)."""
        for pool in self._free.values():
            for size, address in list(pool):
                block = self._blocks[address]
                if block.before is None and block.after is None:
                    pool.remove((size, address))
                    del self._blocks[address]
                    self.reserved -= size

    def _segment(self, size: int, *, small: bool) -> int:
        whole = SMALL_SEGMENT if small else LARGE_SEGMENT
        if size >= LEAST_OWN:
            whole = -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
        if self.reserved + whole > self.limit:
            self.give_back()
        if self.reserved + whole > self.limit:
            raise OutOfDeviceMemoryError(f"{whole} bytes")
        address, self._next = self._next, self._next + whole + APART
        self._blocks[address] = _Block(whole, small)
        self.reserved += whole
        return address

    def _join(self, address: int) -> None:
        """Join a block with the one after it; whichever of them is listed as free no longer is."""
        block = self._blocks[address]
        assert block.after is not None
        rest = self._blocks.pop(block.after)
        pool = self._free[block.small]
        for entry in ((block.size, address), (rest.size, block.after)):
            place = bisect_left(pool, entry)
            if place < len(pool) and pool[place] == entry:
                del pool[place]
        block.size, block.after = block.size + rest.size, rest.after
        if rest.after is not None:
            self._blocks[rest.after].before = address
