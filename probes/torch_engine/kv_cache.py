"""Keys and values of a batch, in memory that is taken once."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of some sequences: (layers, 2, rows, places, KV heads, d)."""

    tensor: torch.Tensor

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of one layer, (rows, places, KV heads, d) each."""
        return self.tensor[layer, 0], self.tensor[layer, 1]

    def rows(self, begin: int, end: int) -> Cache:
        """Return the cache of some of the sequences."""
        return Cache(self.tensor[:, :, begin:end])


class CacheMemory:
    """Memory for ``tokens`` tokens of one process's layers and KV heads, divided anew for every batch."""

    def __init__(
        self, *, layers: int, tokens: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.tokens = tokens
        # zeros, since what attention masks it still multiplies with 0
        self._memory = torch.zeros(layers, 2, tokens, kv_heads, head_dim, dtype=dtype, device=device)

    def nbytes(self) -> int:
        return self._memory.numel() * self._memory.element_size()

    def divided(self, rows: int, most: int) -> Cache:
        """Return a cache for ``rows`` sequences of as many places as there are for each, ``most`` at most.

        The places depend on nothing else, so that steps recorded for a number of rows stay valid.
        """
        places = min(most, self.tokens // rows)
        return Cache(self._memory[:, :, : rows * places].unflatten(2, (rows, places)))


def cache_bytes_per_token(*, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Return the bytes one token takes in one process's ``CacheMemory``."""
    return layers * 2 * kv_heads * head_dim * dtype.itemsize
