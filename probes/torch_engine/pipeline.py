"""Batches through the stages of a model, in the static regime: greedy decoding of prompts of one length.

Prefill as in GPipe (arXiv 1811.06965): micro-batches follow one another through the stages. In decode as many groups of
sequences as there are stages are under way, each one stage behind the one before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from probes.torch_engine.graphs import StepGraph
from probes.torch_engine.transformer import TokenStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from probes.torch_engine.kv_cache import Cache, CacheMemory
    from probes.torch_engine.transformer import Transformer

    Watch = Callable[[range, int, torch.Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What a batch became, on the first stage; elsewhere there is nothing in it."""

    tokens: torch.Tensor | None
    """(batch, output_len)"""
    first_s: list[float]
    """Seconds to the first token of each sequence."""


class Pipeline:
    """One process's part in running batches. All processes must call ``generate`` alike."""

    def __init__(
        self, transformer: Transformer, memory: CacheMemory, *, positions: int, prefill_tokens: int, graphs: bool
    ) -> None:
        """Take the ``positions`` a sequence may have, the tokens a prefill micro-batch has at most (but always a whole
        prompt), and whether decode steps are recorded.
        """
        self.transformer, self.links, self.layout = transformer, transformer.links, transformer.layout
        self.memory, self.positions = memory, positions
        self.prefill_tokens, self.graphs = prefill_tokens, graphs
        self._recorded: dict[tuple[int, int, int], StepGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if graphs else None

    def use(self, memory: CacheMemory) -> None:
        """Keep keys and values there from now on; what was recorded for the old place is forgotten."""
        self.memory = memory
        self._recorded.clear()
        self._pool = torch.cuda.graph_pool_handle() if self.graphs else None

    def generate(
        self,
        prompts: torch.Tensor | None,
        *,
        batch: int,
        input_len: int,
        output_len: int,
        watch: Watch | None = None,
        forced: torch.Tensor | None = None,
    ) -> Generated:
        """Run a batch to its end. ``prompts``, (batch, input_len) on the device, are looked at on the first stage only.

        ``watch`` is called on the last stage with the sequences, the number of the token (0 for the first) and the
        logits (sequences, vocabulary) it is chosen by. ``forced``, (batch, output_len), are tokens for the first stage to
        go on with whatever was chosen.
        """
        assert input_len + output_len <= self.positions
        groups = even_parts(batch, min(self.layout.pp, batch))
        cache = self.memory.divided(batch, self.positions)
        turns = [_Turn(group, cache.rows(group.start, group.stop), input_len) for group in groups]
        with torch.inference_mode():
            began = self._mark()
            for turn in turns:
                self._prefill(turn, prompts, watch)
            for number in range(1, output_len):
                for turn in turns:
                    self._decode(turn, batch, number, watch, forced)
            if self.layout.is_first:
                for turn in turns:
                    self._take_tokens(turn)
            self.links.settle()
            ended = self._mark()
        if isinstance(ended, torch.cuda.Event):
            ended.synchronize()
        if not self.layout.is_first:
            return Generated(tokens=None, first_s=[])
        firsts = [_seconds(began, turn.first) for turn in turns for _ in turn.rows]
        return Generated(tokens=torch.cat([torch.stack(turn.tokens, dim=1) for turn in turns]), first_s=firsts)

    def _prefill(self, turn: _Turn, prompts: torch.Tensor | None, watch: Watch | None) -> None:
        at_once = max(1, self.prefill_tokens // turn.input_len)
        step = TokenStep(positions=torch.arange(turn.input_len, device=self.transformer.device), context=turn.input_len)
        chosen = []
        for begin in range(turn.rows.start, turn.rows.stop, at_once):
            rows = range(begin, min(begin + at_once, turn.rows.stop))
            if self.layout.is_first:
                assert prompts is not None
                entering = prompts[rows.start : rows.stop]
            else:
                entering = self._receive(len(rows), turn.input_len)
            first = rows.start - turn.rows.start
            leaving = self.transformer.forward(entering, step, turn.cache.rows(first, first + len(rows)))
            if not self.layout.is_last:
                self.links.send(leaving, "forward")
                continue
            if watch:
                watch(rows, 0, leaving)
            chosen.append(leaving.argmax(dim=-1))
        if chosen:
            self._give_tokens(turn, torch.cat(chosen))

    def _decode(self, turn: _Turn, batch: int, number: int, watch: Watch | None, forced: torch.Tensor | None) -> None:
        position = turn.input_len + number - 1
        if self.layout.is_first:
            self._take_tokens(turn)
            chosen = turn.tokens[-1] if forced is None else forced[turn.rows.start : turn.rows.stop, number - 1]
            entering = chosen[:, None]
        else:
            entering = self._receive(len(turn.rows), 1)
        if self.graphs:
            leaving = self._recorded_step(turn, batch, entering, position)
        else:
            step = TokenStep(positions=torch.full((1,), position, device=self.transformer.device), context=position + 1)
            leaving = self.transformer.forward(entering, step, turn.cache)
        if not self.layout.is_last:
            self.links.send(leaving.clone() if self.graphs else leaving, "forward")
            return
        if watch:
            watch(turn.rows, number, leaving)
        self._give_tokens(turn, leaving.argmax(dim=-1))

    def _recorded_step(self, turn: _Turn, batch: int, entering: torch.Tensor, position: int) -> torch.Tensor:
        key = (batch, turn.rows.start, turn.rows.stop)
        if key not in self._recorded:
            if any(other[0] != batch for other in self._recorded):  # their caches lie elsewhere; their memory is needed
                self._recorded.clear()
                self._pool = torch.cuda.graph_pool_handle()  # the old one went with its last graph
            self._recorded[key] = StepGraph(self.transformer, turn.cache, entering, position, self._pool)
        return self._recorded[key].replay(entering, position)

    def _receive(self, rows: int, length: int) -> torch.Tensor:
        shape = (rows, length, self.transformer.model.hidden_size)
        return self.links.receive(shape, self.transformer.dtype, self.transformer.device, "forward")

    def _give_tokens(self, turn: _Turn, tokens: torch.Tensor) -> None:
        """Send the tokens from the last stage to the first."""
        if self.layout.pp == 1:
            turn.coming = tokens
        else:
            self.links.send(tokens, "back")

    def _take_tokens(self, turn: _Turn) -> None:
        if self.layout.pp > 1:
            shape = (len(turn.rows),)
            turn.coming = self.links.receive(shape, torch.int64, self.transformer.device, "back")
        assert turn.coming is not None
        turn.tokens.append(turn.coming)
        if len(turn.tokens) == 1:
            turn.first = self._mark()

    def _mark(self) -> float | torch.cuda.Event:
        """Return the time now; on a GPU, an event for when it gets there."""
        if self.transformer.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class _Turn:
    """Sequences that go through the stages together, and how far they are."""

    def __init__(self, rows: range, cache: Cache, input_len: int) -> None:
        self.rows, self.cache, self.input_len = rows, cache, input_len
        self.tokens: list[torch.Tensor] = []
        self.coming: torch.Tensor | None = None
        self.first: float | torch.cuda.Event = 0.0


def even_parts(size: int, parts: int) -> list[range]:
    """Split ``range(size)`` into parts that differ by one at most, the longer ones first."""
    short, longer = divmod(size, parts)
    ends = [part * short + min(part, longer) for part in range(parts + 1)]
    return [range(begin, end) for begin, end in pairwise(ends)]


def _seconds(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(begin, torch.cuda.Event):
        assert isinstance(end, torch.cuda.Event)
        return float(begin.elapsed_time(end)) / 1e3
    assert isinstance(end, float)
    return end - begin
