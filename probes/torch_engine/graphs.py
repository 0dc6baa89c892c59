"""Decode steps as CUDA graphs: a step's kernels recorded once and launched together ever after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from catalog.errors import InputError
from probes.torch_engine.fused_kernels import has_triton
from probes.torch_engine.transformer import TokenStep

if TYPE_CHECKING:
    from probes.torch_engine.kv_cache import Cache
    from probes.torch_engine.transformer import Transformer


def check_graphs() -> None:
    """Raise ``InputError`` if this torch has no attention that can be recorded for any position."""
    if not has_triton():
        raise InputError(
            "CUDA graphs need triton, which comes with PyTorch for CUDA; install it, or set graphs to false"
        )


class StepGraph:
    """One token each of some sequences, at whatever position all of them stand."""

    def __init__(
        self, transformer: Transformer, cache: Cache, entering: torch.Tensor, position: int, pool: Any
    ) -> None:
        """Record the step; every process of the stage must do so at the same time.

        ``cache`` is that of the sequences, ``entering`` what enters the stage at ``position`` (it is computed on while
        recording, to no other effect than the step itself will have), ``pool`` memory that graphs share.
        """
        rows, places = cache.layer(0)[0].shape[:2]
        self._entering = entering.clone()
        self._positions = torch.full((1,), position, dtype=torch.int64, device=entering.device)
        self._used = torch.full((rows,), position + 1, dtype=torch.int32, device=entering.device)
        step = TokenStep(positions=self._positions, context=places, used=self._used)
        self._traffic = transformer.links.traffic
        before = self._traffic.copy()
        # twice beforehand, on a stream of its own as recording demands: libraries set themselves up when first called
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                transformer.forward(self._entering, step, cache)
        torch.cuda.current_stream().wait_stream(stream)
        warm = self._traffic.copy()
        self._graph = torch.cuda.CUDAGraph()
        # other threads (NCCL's watchdog) may use CUDA meanwhile
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._leaving = transformer.forward(self._entering, step, cache)
        self._each = self._traffic.since(warm)
        self._traffic.restore(before)

    def replay(self, entering: torch.Tensor, position: int) -> torch.Tensor:
        """Run the step again; what leaves the stage is valid until the next replay."""
        self._entering.copy_(entering)
        self._positions.fill_(position)
        self._used.fill_(position + 1)
        self._graph.replay()
        self._traffic.add(self._each)
        return self._leaving
