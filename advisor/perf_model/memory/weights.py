"""Weights of one layer on one GPU, by part and by whether the weight format covers them; arrays over deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays, weight_bits
from catalog.parts import Dense, Experts

if TYPE_CHECKING:
    from catalog.engines import Engine
    from catalog.mixers import Matrix
    from catalog.parts import Layer
    from catalog.schema import Gpu, Model
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
    """Return routed experts' worth of weights on the fullest GPU: slices of all of them, or whole ones, unevenly if need be."""
    return np.where(layout.ep > 1, np.ceil(experts.num_experts / layout.ep), experts.num_experts / layout.tp)


def expert_padding(model: Model, layout: DeploymentArrays, gpu: Gpu, engine: Engine) -> Array | None:
    """Return the multiples to which an engine pads an expert's slice and the hidden state, shape (2, n); None where it does not."""
    stored = model.part_format("experts") or model.quantization
    if stored != "mxfp4" or gpu.vendor != "nvidia":
        return None
    releases, which = np.unique(layout.release, return_inverse=True)
    multiples = np.array(
        [engine.mxfp4_multiples(gpu.compute_capability, int(minor)) for minor in releases], dtype=float
    )
    return None if np.all(multiples == 1.0) else multiples[which.reshape(-1)].T


def layer_elements(
    layer: Layer, hidden: int, layout: DeploymentArrays, padding: Array | None = None
) -> dict[str, PartElements]:
    """Count the weights of one layer on one GPU by part (a key of ``catalog.schema.PARTS``).

    The attention part counts the layer's norms, the experts part the router. ``padding`` are the multiples of
    ``expert_padding``.
    """
    tp = layout.tp
    quantised, plain = layer.extra / tp, layer.norm_elements(hidden) + 0.0 * tp
    for part in layer.mixers:
        within, beside = _matrices(list(part.matrices(hidden)), tp)
        own = layer.held if part is layer.mixer else 1.0
        quantised = quantised + own * within
        plain = plain + own * (beside + part.vectors + part.sliced_vectors / tp)
    elements = {"attention": PartElements(quantised=quantised, plain=plain)}
    feed_forward = layer.feed_forward
    if isinstance(feed_forward, Dense):
        within, beside = _matrices(list(feed_forward.matrices(hidden)), tp)
        elements["dense"] = PartElements(quantised=within, plain=beside)
    if isinstance(feed_forward, Experts):
        held = experts_held(feed_forward, layout)
        vectors = feed_forward.expert_vectors(hidden)
        latent = sum(matrix.elements for matrix in feed_forward.latent_matrices(hidden))
        elements["experts"] = PartElements(
            quantised=_experts(feed_forward, hidden, layout, padding),
            plain=held * vectors + feed_forward.router_elements(hidden) + 0.0 * tp,
        )
        shared = list(feed_forward.shared.matrices(hidden)) if feed_forward.shared else []
        within, beside = _matrices(shared, tp)
        elements["shared"] = PartElements(quantised=within + latent, plain=beside)
    for name in elements.keys() - {"attention"} if layer.held < 1.0 else ():
        elements[name] = PartElements(
            quantised=layer.held * elements[name].quantised, plain=layer.held * elements[name].plain
        )
    return elements


def _experts(experts: Experts, hidden: int, layout: DeploymentArrays, padding: Array | None) -> Array:
    """Count the matrices of the experts on the fullest GPU, padded as its kernels need them."""
    if padding is None:
        whole = experts.expert_elements(hidden) - experts.expert_vectors(hidden)
        return experts_held(experts, layout) * whole
    sliced = np.where(layout.ep > 1, 1.0, layout.tp)
    width = np.ceil(experts.width / sliced / padding[0]) * padding[0]
    into = np.ceil(experts.inputs(hidden) / padding[1]) * padding[1]
    matrices = experts.inner / experts.width + 1.0
    return np.asarray(experts_held(experts, layout) * sliced * matrices * width * into)


def part_bytes(model: Model, part: str, layout: DeploymentArrays) -> Array:
    """Return bytes a weight of a part's matrices, scales included, shape (n,)."""
    stored = model.part_format(part)
    return layout.weight_bytes if not stored else np.full(len(layout), _stored_bits(model, part, stored) / 8.0)


def outside_bytes(model: Model, part: str, half: Array) -> Array:
    """Return bytes a weight of a part outside the layers (``catalog.schema.OUTSIDE``), shape (n,); ``half`` where nothing is said."""
    stored = model.part_format(part)
    return np.full_like(half, _stored_bits(model, part, stored) / 8.0) if stored else half


def _stored_bits(model: Model, part: str, stored: str) -> float:
    return dict(model.part_bits).get(part) or weight_bits(stored, model)


def layer_bytes(model: Model, layer: Layer, layout: DeploymentArrays, padding: Array | None = None) -> Array:
    """Return bytes of one layer's weights on the fullest GPU, shape (n,)."""
    half = np.maximum(ACTIVATION_BYTES, layout.weight_bytes)
    return sum(
        (
            elements.quantised * part_bytes(model, part, layout) + elements.plain * half
            for part, elements in layer_elements(layer, model.hidden_size, layout, padding).items()
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
