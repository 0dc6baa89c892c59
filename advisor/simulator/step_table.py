"""How long every step takes that a scheduler could make up: the model of time, tabulated for the simulator's loop.

The time of a pass is a sum over operators (``advisor.perf_model.roofline``), and each depends on one thing: matrix products,
elementwise work and collectives on the tokens of the step; the head on the sequences that get a token; decode attention
on the decoding sequences and their mean context; prefill attention on query-key pairs, linearly. So four tables say it
all. Tokens and sequences are tabulated one by one, contexts on a geometric grid between which attention is all but
linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from advisor.perf_model.cost import BESIDE_GPU, HOST, LAUNCH, OFFLOAD
from advisor.perf_model.forward_pass import forward_pass_cost
from advisor.perf_model.image_encoding import image_cost
from advisor.perf_model.lockstep import ROUTED, ranks_in_step
from advisor.perf_model.operators import ForwardPass
from catalog.engines import pipeline_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.perf_model.cost_model import CostModel
    from advisor.simulator.draft_table import Drafts, Speculator
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
    prompt_token_ms: float = 0.0
    """Of the encoder of the images of a prompt, for each of its tokens."""
    turn_ms: float = 0.0
    """Of the host from the beginning of one step to that of the next, beside the GPUs of a pipeline."""

    def scaled(self, factor: float) -> StepConstants:
        """Return all times multiplied by ``factor``."""
        times = StepConstants(*(factor * time for time in self))
        return times._replace(captured_tokens=self.captured_tokens, mixed_attention=self.mixed_attention)


OCTAVES = 22
"""Doublings of the context that are tabulated: up to four million tokens."""
SEQUENCE_NODES = 48
MANY = 2.0**30
"""Query-key pairs whose time stands out of that of the rest of a pass."""


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
    by_group: Array = field(default_factory=lambda: np.zeros(0))
    """Of the experts that ranks share, where each has so many tokens, shape (budget + 1,); it is then no part of ``by_tokens``. Of no
    tokens where replicas share nothing."""

    drafts: Drafts | None = None
    """Of a deployment that drafts."""

    @property
    def arrays(self) -> tuple[Array, Array, Array, StepConstants, Array, Array, Drafts | None]:
        """Return the tables in the order in which the compiled loop takes them."""
        return (
            self.by_tokens,
            self.by_sequences,
            self.by_context,
            self.constants,
            self.shares,
            self.by_group,
            self.drafts,
        )

    @property
    def tokens_each(self) -> int:
        """Count the tokens that a step computes of each decoding sequence."""
        return 1 if self.drafts is None else 1 + self.drafts.draft_len

    def prompt_ms(self, tokens: int) -> float:
        """Return what a step takes that computes a prompt of so many tokens and nothing else."""
        from advisor.simulator.step_duration import step_ms  # brings numba

        pairs = tokens * (tokens + 1) / 2.0
        tables = (self.by_tokens, self.by_sequences, self.by_context)
        alone = float(self.by_group[tokens]) if len(self.by_group) else 0.0
        return alone + step_ms(*tables, self.constants, tokens, 1, 0, 0.0, pairs, 0.0, True)

    def scaled(self, factor: float) -> StepTimes:
        """Return all times multiplied by ``factor``."""
        return StepTimes(
            by_tokens=self.by_tokens * factor,
            by_sequences=self.by_sequences * factor,
            by_context=self.by_context * factor,
            constants=self.constants.scaled(factor),
            shares=self.shares,
            by_group=self.by_group * factor,
            drafts=None if self.drafts is None else self.drafts.scaled(factor, factor),
        )


def context_place(context: float) -> tuple[int, float]:
    """Return the node of ``StepTimes.by_context`` below a context, and the share of the way to the next."""
    from advisor.simulator.step_duration import NODES_PER_OCTAVE

    place = NODES_PER_OCTAVE * np.log2(max(context, 1.0))
    low = int(min(place, OCTAVES * NODES_PER_OCTAVE - 1))
    return low, min(place - low, 1.0)


def tabulate(
    cost_model: CostModel, *, budget: int, cap: int, context: float | None = None, speculator: Speculator | None = None
) -> StepTimes:
    """Tabulate the steps of one deployment, of at most ``budget`` tokens and ``cap`` sequences.

    With ``context`` only what sequences of that length take is computed of decode attention, and the rest is NaN.
    """
    from advisor.simulator.step_duration import NODES_PER_OCTAVE

    prompt_token_ms = _image_ms(cost_model, budget)
    cost_model = replace(cost_model, model=replace(cost_model.model, images=None))
    captured = float(cost_model.captured_tokens[0]) if cost_model.layout.graphs[0] > 0 else 0.0
    first = min(captured + 1.0, float(budget))
    some = np.unique(np.rint(np.geomspace(1, cap, SEQUENCE_NODES)))
    nodes = slice(None) if context is None else slice(context_place(context)[0], context_place(context)[0] + 2)
    contexts = 2.0 ** (np.arange(OCTAVES * NODES_PER_OCTAVE + 1) / NODES_PER_OCTAVE)
    decodes, lengths = (grid.ravel() for grid in np.meshgrid(some, contexts[nodes], indexing="ij"))
    decoding, stream, shared = _gpu_ms(
        cost_model,
        [
            # No table is asked about no tokens or no sequences: a collective of no bytes has no time.
            {"tokens": np.ones(1)},
            {"tokens": np.maximum(np.arange(budget + 1.0), 1.0)},
            {"tokens": np.ones(cap + 1), "sequences": np.maximum(np.arange(cap + 1.0), 1.0)},
            {"tokens": np.ones(len(decodes)), "decodes": decodes, "context": lengths},
            {"tokens": np.ones(2), "pairs": np.array([MANY, 0.0]), "windowed_pairs": np.array([0.0, MANY])},
            {"tokens": np.array([first])},
        ],
    )
    (nothing,), tokens, sequences, per_decode, pairs, (gpu,) = decoding
    by_group = shared[1] if go_in_step(cost_model) else np.zeros(0)
    per_decode = ((per_decode - nothing) / decodes).reshape(len(some), -1)
    by_context, number = np.full((cap + 1, len(contexts)), np.nan), np.arange(cap + 1.0)
    by_context[:, nodes] = np.stack([np.interp(number, some, column) for column in per_decode.T], axis=1)
    pair_ms, windowed_pair_ms = (float(time - nothing) / MANY for time in pairs)
    if speculator is not None:
        seen = np.minimum(contexts, float(cost_model.model.sliding_window) or np.inf)
        by_context = speculator.attention_ms(by_context, pair_ms * contexts + windowed_pair_ms * seen)
    prompts = _parts(cost_model, 1.0, np.array([1.0, 1.0, first]), {"sequences": np.array([1.0, 2.0, 1.0])})
    host, waited = np.broadcast_to(prompts[HOST], 3), np.broadcast_to(prompts[LAUNCH], 3)[2]
    launch = gpu + waited if waited > 0 else 0.0  # where the smallest pass outlasts its launches, all do
    if stream > 0:
        stream += max(nothing, launch if captured == 0 else 0.0)
    shares = _stage_shares(cost_model)
    if len(by_group):  # what is waited for beside them is compared with what a rank takes by itself
        tokens = tokens - by_group
        launch = max(launch - shared[5][0], 0.0)
    return StepTimes(
        by_tokens=np.ascontiguousarray(tokens),
        by_group=np.ascontiguousarray(by_group),
        by_sequences=np.ascontiguousarray(sequences - nothing),
        by_context=by_context,
        constants=StepConstants(
            pair_ms=pair_ms,
            windowed_pair_ms=windowed_pair_ms,
            launch_ms=float(launch),
            stream_ms=float(stream),
            host_ms=float(2.0 * host[0] - host[1]),
            sequence_ms=float(host[1] - host[0]),
            captured_tokens=captured,
            mixed_attention=cost_model.timing.mixed_attention,
            prompt_token_ms=prompt_token_ms,
            turn_ms=float(cost_model.parameters.turn_ms) if len(shares) > 1 else 0.0,
        ),
        shares=shares,
        drafts=None if speculator is None else speculator.table(budget=budget, cap=cap),
    )


def _stage_shares(cost_model: CostModel) -> Array:
    """Return the share of the layers that each stage of a pipeline has."""
    layers = np.array(pipeline_layers(cost_model.model.num_hidden_layers, int(cost_model.layout.pp[0])), dtype=float)
    return np.asarray(layers / layers.sum())


def _image_ms(cost_model: CostModel, budget: int) -> float:
    """Return milliseconds of the images of a prompt for each of its tokens, where a step has all of them or is full."""
    images = cost_model.model.images
    if images is None:
        return 0.0
    prompts = np.array([float(min(images.prompt_len, budget))])
    layout = cost_model.layout.take(np.zeros(1, dtype=np.intp))
    cost = image_cost(cost_model.model, layout, prompts, cost_model.cluster, cost_model.parameters)
    return float(np.ravel(cost.total_ms)[0] / prompts[0])


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


def go_in_step(cost_model: CostModel) -> bool:
    """Return whether the ranks of one deployment share experts and wait for each other's prompts."""
    return bool(ranks_in_step(cost_model)[0] > 1)


def _gpu_ms(cost_model: CostModel, passes: Sequence[dict[str, Array]]) -> tuple[list[Array], float, list[Array]]:
    """Return milliseconds on the GPU of several sets of passes without prompts, those of copies beside the first, and what of each pass
    routed experts take.

    They are computed as one, for what a formula costs is the call and not the numbers.
    """
    tokens = np.concatenate([each["tokens"] for each in passes])
    usual = {"sequences": 1.0, "decodes": 0.0, "context": 0.0, "pairs": 0.0, "windowed_pairs": 0.0}
    rest: dict[str, Array] = {
        name: np.concatenate([each.get(name, np.full(each["tokens"].shape, number)) for each in passes])
        for name, number in usual.items()
    }
    parts = _parts(cost_model, 0.0, tokens, rest)
    total = np.asarray(sum(time for name, time in parts.items() if name not in BESIDE_GPU)) + np.zeros_like(tokens)
    shared = np.asarray(sum(parts.get(name, 0.0) for name in ROUTED)) + np.zeros_like(tokens)
    ends = np.cumsum([len(each["tokens"]) for each in passes])[:-1]
    return np.split(total, ends), float(np.broadcast_to(parts[OFFLOAD], tokens.shape)[0]), np.split(shared, ends)
