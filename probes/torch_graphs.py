"""Decode steps as CUDA graphs: a step's kernels recorded once and launched together ever after."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch

from catalog.schema import InputError
from probes.transformer import Recorded, Step

if TYPE_CHECKING:
    from probes.transformer import Transformer
    from probes.transformer_cache import Cache


def check_graphs() -> None:
    """Raise ``InputError`` if this torch has no attention that can be recorded for any position."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  newer versions of torch only
    except ImportError:
        found = False
    else:
        found = "seqused_k" in signature(varlen_attn).parameters
    if not found:
        raise InputError(
            f"torch {torch.__version__} has no varlen_attn with seqused_k, which CUDA graphs need; "
            "install a newer one, or set compiled to false"
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
        begins = torch.arange(rows + 1, dtype=torch.int32, device=entering.device)
        recorded = Recorded(
            used=torch.full((rows,), position + 1, dtype=torch.int32, device=entering.device),
            query_begins=begins,
            cache_begins=begins * places,
        )
        self._used = recorded.used
        step = Step(positions=self._positions, context=places, recorded=recorded)
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
        """What leaves the stage, valid until the next replay."""
        self._entering.copy_(entering)
        self._positions.fill_(position)
        self._used.fill_(position + 1)
        self._graph.replay()
        self._traffic.add(self._each)
        return self._leaving
