"""How long every step takes that a scheduler could make up: the model of time, tabulated for the simulator's loop.

The time of a pass is a sum over operators (``advisor.perf_model.roofline``), and each depends on one thing: matrix products,
elementwise work and collectives on the tokens of the step; the head on the sequences that get a token; decode attention
on the decoding sequences and their mean context; prefill attention on query-key pairs, linearly. So four tables say it
all. Tokens and sequences are tabulated one by one, contexts on a geometric grid between which attention is all but
linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from advisor.perf_model.cost import BESIDE_GPU, HOST, LAUNCH, OFFLOAD
from advisor.perf_model.forward_pass import forward_pass_cost
from advisor.perf_model.operators import ForwardPass
from catalog.engines import pipeline_layers

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from catalog.units import Array


class StepConstants(NamedTuple):
    """What the time of a step has beside the tables, milliseconds unless said otherwise."""

    pair_ms: float = 0.0
    """Of a query-key pair of the prompts in all full layers,"""
    windowed_pair_ms: float = 0.0
    """and in all windowed ones."""
    launch_ms: float = 0.0
    """Of the host to launch a pass that is not captured in a CUDA graph, beside the GPU;"""
    stream_ms: float = 0.0
    """of the host to copy offloaded layers, beside the GPU."""
    host_ms: float = 0.0
    """Of the host in a step,"""
    sequence_ms: float = 0.0
    """and for each sequence that gets a token."""
    captured_tokens: float = 0.0
    """Tokens of the largest pass that is captured in a CUDA graph; 0: none is."""
    mixed_attention: float = 1.0
    """Factor of decode attention in a pass that computes prompts as well."""

    def scaled(self, factor: float) -> StepConstants:
        """Return all times multiplied by ``factor``."""
        times = StepConstants(*(factor * time for time in self))
        return times._replace(captured_tokens=self.captured_tokens, mixed_attention=self.mixed_attention)


OCTAVES = 22
"""Doublings of the context that are tabulated: up to four million tokens."""
SEQUENCE_NODES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Milliseconds of the steps of one deployment, as the loop takes them."""

    by_tokens: Array
    """Of the work on so many tokens, and all that is fixed, shape (budget + 1,)."""
    by_sequences: Array
    """Of the head for so many sequences, above that for one, shape (cap + 1,)."""
    by_context: Array
    """Of decode attention for each of so many sequences, at mean contexts 2^(i / 4), shape (cap + 1, nodes)."""
    constants: StepConstants
    shares: Array
    """Share of a pass that each pipeline stage takes, shape (pp,)."""

    @property
    def arrays(self) -> tuple[Array, Array, Array, StepConstants, Array]:
        """Return the tables in the order in which the compiled loop takes them."""
        return self.by_tokens, self.by_sequences, self.by_context, self.constants, self.shares

    def scaled(self, factor: float) -> StepTimes:
        """Return all times multiplied by ``factor``."""
        return StepTimes(
            by_tokens=self.by_tokens * factor,
            by_sequences=self.by_sequences * factor,
            by_context=self.by_context * factor,
            constants=self.constants.scaled(factor),
            shares=self.shares,
        )


def tabulate(cost_model: CostModel, *, budget: int, cap: int) -> StepTimes:
    """Tabulate the steps of one deployment, of at most ``budget`` tokens and ``cap`` sequences."""
    from advisor.simulator.scheduler_loop import NODES_PER_OCTAVE

    host = _part(cost_model, HOST, tokens=np.ones(2), sequences=np.array([1.0, 2.0]))
    # No table is asked about no tokens or no sequences: a collective of no bytes has no time.
    nothing = _gpu(cost_model, tokens=np.ones(1))[0]
    tokens = _gpu(cost_model, tokens=np.maximum(np.arange(budget + 1.0), 1.0))
    numbers = np.maximum(np.arange(cap + 1.0), 1.0)
    sequences = _gpu(cost_model, tokens=np.ones(cap + 1), sequences=numbers) - nothing
    contexts = 2.0 ** (np.arange(OCTAVES * NODES_PER_OCTAVE + 1) / NODES_PER_OCTAVE)
    some = np.unique(np.rint(np.geomspace(1, cap, SEQUENCE_NODES)))
    decodes, context = (grid.ravel() for grid in np.meshgrid(some, contexts, indexing="ij"))
    per_decode = (_gpu(cost_model, tokens=np.ones(len(decodes)), decodes=decodes, context=context) - nothing) / decodes
    per_decode = per_decode.reshape(len(some), len(contexts))
    wanted = np.arange(cap + 1.0)
    by_context = np.stack([np.interp(wanted, some, column) for column in per_decode.T], axis=1)
    many = 2.0**30  # pairs, so that their time stands out of the rest
    pairs = (
        _gpu(cost_model, tokens=np.ones(2), pairs=np.array([many, 0.0]), windowed_pairs=np.array([0.0, many])) - nothing
    )
    captured = float(cost_model.timing.graph_tokens) if cost_model.layout.graphs[0] > 0 else 0.0
    first = min(captured + 1.0, float(budget))
    gpu = _gpu(cost_model, tokens=np.array([first]))[0]
    waited = _part(cost_model, LAUNCH, tokens=np.array([first]))[0]
    launch = gpu + waited if waited > 0 else 0.0  # where the smallest pass outlasts its launches, all do
    stream = _part(cost_model, OFFLOAD, tokens=np.ones(1), prefills=0.0)[0]
    if stream > 0:
        stream += max(_gpu(cost_model, tokens=np.ones(1))[0], launch if captured == 0 else 0.0)
    layers = np.array(pipeline_layers(cost_model.model.num_hidden_layers, int(cost_model.layout.pp[0])), dtype=float)
    return StepTimes(
        by_tokens=np.ascontiguousarray(tokens),
        by_sequences=np.ascontiguousarray(sequences),
        by_context=np.ascontiguousarray(by_context),
        constants=StepConstants(
            pair_ms=float(pairs[0]) / many,
            windowed_pair_ms=float(pairs[1]) / many,
            launch_ms=float(launch),
            stream_ms=float(stream),
            host_ms=float(2.0 * host[0] - host[1]),
            sequence_ms=float(host[1] - host[0]),
            captured_tokens=captured,
            mixed_attention=cost_model.timing.mixed_attention,
        ),
        shares=layers / layers.sum(),
    )


def _pass(tokens: Array, window: float, **given: Array) -> ForwardPass:
    zero = np.zeros_like(tokens)
    named = {name: given.get(name, zero) for name in ("decodes", "context", "pairs", "windowed_pairs")}
    return ForwardPass(
        tokens=tokens,
        sequences=given.get("sequences", np.ones_like(tokens)),
        windowed_context=np.minimum(named["context"], window),
        decodes=named["decodes"],
        context=named["context"],
        pairs=named["pairs"],
        windowed_pairs=named["windowed_pairs"],
    )


def _parts(cost_model: CostModel, prefills: float, tokens: Array, given: dict[str, Array]) -> dict[str, Array]:
    wide = cost_model.take(np.zeros(len(tokens), dtype=np.intp))
    step = _pass(tokens, float(cost_model.model.sliding_window) or np.inf, **given)
    return forward_pass_cost(wide, step, prefills=prefills).by_operator()


def _part(cost_model: CostModel, name: str, *, tokens: Array, prefills: float = 1.0, **given: Array) -> Array:
    return np.broadcast_to(_parts(cost_model, prefills, tokens, given)[name], tokens.shape)


def _gpu(cost_model: CostModel, *, tokens: Array, **given: Array) -> Array:
    """Return milliseconds on the GPU, host, launches and copies left out."""
    parts = _parts(cost_model, 0.0, tokens, given)
    total = sum(time for name, time in parts.items() if name not in BESIDE_GPU)
    return np.asarray(total) + np.zeros_like(tokens)
