"""Weights of one layer on one GPU, by part and by whether the weight format covers them; arrays over deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays, weight_bits
from catalog.parts import Dense, Experts

if TYPE_CHECKING:
    from catalog.mixers import Matrix
    from catalog.parts import Layer
    from catalog.schema import Model
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PartElements:
    """Weights of one part of a layer on the fullest GPU, in elements; arrays have shape (n,)."""

    quantised: Array
    """Those of matrices that the weight format covers."""
    plain: Array
    """Norms, biases, routers and gates, which stay in 16 bits whatever the format (``modules_to_not_convert``,
    ``ignored_layers``; vllm/model_executor/layers: ``GateLinear`` and the norms take no quantisation config)."""


def columns(matrix: Matrix, tp: Array) -> Array:
    """Count the outputs of ``matrix`` that one GPU computes, shape (n,); KV heads are copied where ``tp`` exceeds them."""
    own = matrix.n / tp if matrix.sliced == "n" else matrix.n + 0.0 * tp
    return own + np.maximum(matrix.kv_n / tp, matrix.kv_least) if matrix.kv_n else own


def rows(matrix: Matrix, tp: Array) -> Array:
    """Count the inputs of ``matrix`` that one GPU takes, shape (n,)."""
    return matrix.k / tp if matrix.sliced == "k" else matrix.k + 0.0 * tp


def experts_held(experts: Experts, layout: DeploymentArrays) -> Array:
    """Routed experts' worth of weights on the fullest GPU: slices of all of them, or whole ones, unevenly if need be."""
    return np.where(layout.ep > 1, np.ceil(experts.num_experts / layout.ep), experts.num_experts / layout.tp)


def layer_elements(layer: Layer, hidden: int, layout: DeploymentArrays) -> dict[str, PartElements]:
    """Count the weights of one layer on one GPU by part (a key of ``catalog.schema.PARTS``).

    The attention part counts the layer's norms, the experts part the router.
    """
    tp = layout.tp
    quantised, plain = layer.extra / tp, layer.norm_elements(hidden) + 0.0 * tp
    for part in layer.mixers:
        within, beside = _matrices(list(part.matrices(hidden)), tp)
        quantised, plain = quantised + within, plain + beside + part.vectors + part.sliced_vectors / tp
    found = {"attention": PartElements(quantised=quantised, plain=plain)}
    feed_forward = layer.feed_forward
    if isinstance(feed_forward, Dense):
        within, beside = _matrices(list(feed_forward.matrices(hidden)), tp)
        found["dense"] = PartElements(quantised=within, plain=beside)
    if isinstance(feed_forward, Experts):
        held = experts_held(feed_forward, layout)
        vectors = feed_forward.expert_vectors(hidden)
        latent = sum(matrix.elements for matrix in feed_forward.latent_matrices(hidden))
        found["experts"] = PartElements(
            quantised=held * (feed_forward.expert_elements(hidden) - vectors),
            plain=held * vectors + feed_forward.router_elements(hidden) + 0.0 * tp,
        )
        shared = list(feed_forward.shared.matrices(hidden)) if feed_forward.shared else []
        within, beside = _matrices(shared, tp)
        found["shared"] = PartElements(quantised=within + latent, plain=beside)
    return found


def part_bytes(model: Model, part: str, layout: DeploymentArrays) -> Array:
    """Bytes a weight of a part's matrices, scales included, shape (n,)."""
    stored = model.part_format(part)
    return layout.weight_bytes if not stored else np.full(len(layout), weight_bits(stored) / 8.0)


def layer_bytes(model: Model, layer: Layer, layout: DeploymentArrays) -> Array:
    """Bytes of one layer's weights on the fullest GPU, shape (n,)."""
    half = np.maximum(ACTIVATION_BYTES, layout.weight_bytes)
    return sum(
        (
            elements.quantised * part_bytes(model, part, layout) + elements.plain * half
            for part, elements in layer_elements(layer, model.hidden_size, layout).items()
        ),
        start=np.zeros(len(layout)),
    )


def _matrices(matrices: list[Matrix], tp: Array) -> tuple[Array, Array]:
    """Sum matrices: what the format covers, and biases and those that stay in 16 bits."""
    within, beside = np.zeros_like(tp), np.zeros_like(tp)
    for matrix in matrices:
        count = columns(matrix, tp)
        size = rows(matrix, tp) * count
        within, beside = (within, beside + size) if matrix.half else (within + size, beside)
        beside = beside + count * matrix.bias
    return within, beside
