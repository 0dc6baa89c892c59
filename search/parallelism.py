"""The ways to lay one model out on a cluster: tensor, pipeline, data, expert and decode context parallel degrees, as a generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from catalog.engines import tp_problem, valid_dcp, valid_ep, valid_pp
from catalog.schema import require_positive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from catalog.schema import Cluster, Model

ExpertParallel = Literal["none", "tp", "all"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Parallelism:
    """Degrees of parallelism; ``tp * pp * dp`` GPUs work."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    """Replicas."""
    ep: int = 1
    """GPUs the routed experts are spread over; 1: experts are sliced like every other matrix."""
    dcp: int = 1
    """GPUs of ``tp`` that share the KV cache of each request by its tokens."""

    @property
    def num_gpus(self) -> int:
        return self.tp * self.pp * self.dp


def most_replicas(cluster: Cluster, *, tp: int, pp: int) -> int:
    """Return how many replicas of ``tp * pp`` GPUs the cluster holds; 0 if they cannot be placed.

    A replica sits inside one node or takes a whole number of nodes, all of their GPUs. A tensor parallel group never
    straddles nodes unless it takes whole ones itself.
    """
    node, replica = cluster.gpus_per_node, tp * pp
    if replica <= node:
        return node // replica * cluster.nodes
    if replica % node or (node % tp and tp % node):
        return 0
    return cluster.nodes // (replica // node)


LONG_CONTEXT = 8192
"""Tokens of a request from which spreading its KV cache is tried. The collectives of it take some 30 us a layer on NVLink, in which a GPU reads
the latent cache of 15 requests that long; shorter ones take batches that seldom keep a limit on latency."""


def context_degrees(model: Model, tp: int, *, stated: int | None, length: int, supported: bool) -> tuple[int, ...]:
    """Return the decode context parallel degrees to try with ``tp``: the stated one where it is possible, else 1 and, for requests of
    ``length`` tokens from ``LONG_CONTEXT`` on where the engine has it (``supported``), the largest, which leaves no copy of the cache.
    """
    possible = valid_dcp(model, tp)
    if stated is not None:
        return (stated,) if stated in possible else ()
    return tuple({1, possible[-1]}) if supported and length >= LONG_CONTEXT else (1,)


def parallelisms(
    model: Model,
    cluster: Cluster,
    *,
    tps: Iterable[int] | None = None,
    max_pp: int | None = None,
    expert_parallel: ExpertParallel = "tp",
    fits: Callable[[int, int], bool] | None = None,
    tp_across_nodes: bool = False,
    contexts: Callable[[int], Iterable[int]] | None = None,
) -> Iterator[Parallelism]:
    """Yield every valid layout of ``model`` on up to all GPUs of ``cluster``, in ascending order of tp, pp, dp, ep, dcp.

    Args:
        model: its shapes decide about tp, its layers about pp, its experts about ep (``catalog.engines``).
        cluster: its GPUs are an upper bound; every number of replicas up to ``most_replicas`` is offered.
        tps: tensor parallel degrees to consider; None: every one that the shapes allow.
        max_pp: largest pipeline degree; None: as many as there are layers.
        expert_parallel: of a mixture of experts, offer ep = 1 only ("none"), also ep = tp ("tp"), or also ep = tp * dp
            ("all").
        fits: whether the weights fit with (tp, pp); None: they always do. Decides about tp across nodes, nothing else.
        tp_across_nodes: offer tp above ``gpus_per_node`` in any case. Otherwise it is offered only when nothing fits
            with tp inside a node, at any pp: every layer then synchronises over the network.
        contexts: decode context parallel degrees to offer with a tensor parallel one; None: 1 alone.

    Raises:
        InputError: a degree is not a whole number above 0.
    """
    if max_pp is not None:
        require_positive("pp", max_pp)
    degrees = range(1, cluster.num_gpus + 1) if tps is None else sorted(set(tps))
    for tp in degrees:
        require_positive("tp", tp)
    pps = valid_pp(model, most=min(cluster.num_gpus, max_pp or cluster.num_gpus))
    stages = [
        (tp, pp) for tp in degrees if any(_sliceable(model, tp)) for pp in pps if most_replicas(cluster, tp=tp, pp=pp)
    ]
    inside = [(tp, pp) for tp, pp in stages if tp <= cluster.gpus_per_node]
    if not tp_across_nodes and any(fits is None or fits(tp, pp) for tp, pp in inside):
        stages = inside
    degrees_of = cache(lambda tp: sorted(contexts(tp)) if contexts else [1])
    for tp, pp in stages:
        sliced, whole = _sliceable(model, tp)
        for dp in range(1, most_replicas(cluster, tp=tp, pp=pp) + 1):
            offered = {"none": {1}, "tp": {1, tp}, "all": {1, tp, tp * dp}}[expert_parallel]
            for ep in valid_ep(model, tp, dp):
                if ep in offered and (whole if ep > 1 else sliced):
                    for dcp in degrees_of(tp):
                        yield Parallelism(tp=tp, pp=pp, dp=dp, ep=ep, dcp=dcp)


def _sliceable(model: Model, tp: int) -> tuple[bool, bool]:
    """Return whether the model can be sliced over ``tp`` GPUs with its experts sliced too, and with whole experts."""
    sliced = not tp_problem(model, tp)
    return sliced, bool(model.moe_layers) and not tp_problem(model, tp, experts_whole=True)
