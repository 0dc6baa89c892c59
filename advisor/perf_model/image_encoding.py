"""Time and memory of an image encoder, by the operators of the language model: products, attention, elementwise work, sums over slices.

The images of a prompt are encoded in the pass that computes their tokens, as vLLM does (v1/worker/gpu_model_runner.py,
``_execute_mm_encoder``); a pass with part of a prompt is charged that part of its images. Weights are kept in 16 bits and sliced like
those of the language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import CAUSES, IMAGE_ENCODER, Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from advisor.perf_model.operators import (
    KERNELS_PER_LAYER,
    AttentionWork,
    CollectiveWork,
    ElementwiseWork,
    Product,
)
from advisor.perf_model.roofline import operator_cost
from catalog.models.image_encoders import encoder_of
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.operators import Operator
    from advisor.perf_model.parameters import Parameters
    from catalog.image_encoder import ImageEncoder, PromptImages
    from catalog.schema import Cluster, Model
    from catalog.units import Array


def image_cost(
    model: Model, layout: DeploymentArrays, prompts: Array, cluster: Cluster, parameters: Parameters
) -> Cost:
    """Return what the images among ``prompts`` tokens of a pass take, shape (n,); nothing where there are no images."""
    encoder = encoder_of(model)
    if model.images is None or encoder is None:
        return Cost()
    cost = Cost()
    for operator in _operators(encoder, model.images, layout, np.asarray(prompts, dtype=float)):
        cost = cost + operator_cost(operator, layout, cluster, parameters)
    launches = encoder.layers * parameters.layer_host_us * 1e-3
    waited = np.maximum(launches - cost.total_ms, 0.0)
    by_cause = cost.by_cause()
    by_cause["overhead"] = by_cause["overhead"] + waited
    some = np.where(prompts > 0, 1.0, 0.0)  # without prompts nothing of it is launched
    return Cost.of(IMAGE_ENCODER, **{cause: by_cause[cause] * some for cause in CAUSES})


def _operators(
    encoder: ImageEncoder, images: PromptImages, layout: DeploymentArrays, prompts: Array
) -> Iterator[Operator]:
    """Yield what one GPU does for the images among so many prompt tokens."""
    patches, tokens = (prompts * images.per_token(float(n)) for n in (images.image.patches, images.image.tokens))
    width, inner, tp = float(encoder.hidden_size), float(encoder.intermediate_size), layout.tp
    up = 2.0 if encoder.gated else 1.0
    layers = float(encoder.layers)
    yield _product(patches, float(encoder.patch_numbers), width + 0.0 * tp, 1.0)
    yield _product(patches, width, 3.0 * width / tp, layers)
    yield _product(patches, width / tp, width + 0.0 * tp, layers)
    yield _product(patches, width, up * inner / tp, layers)
    yield _product(patches, inner / tp, width + 0.0 * tp, layers)
    for rows, columns in encoder.projections:
        yield _product(tokens, float(rows), columns / tp, 1.0)
    whole, windowed = (prompts * images.per_token(n) for n in (images.image.pairs, images.image.windowed_pairs))
    pairs = whole * encoder.whole_layers + windowed * (encoder.layers - encoder.whole_layers)
    zero = np.zeros_like(patches)
    yield AttentionWork(
        kernels=layers,
        latent=False,
        read_bytes=zero,
        read_tile_bytes=zero,
        decode_flops=zero,
        prefill_flops=4.0 * pairs * width / tp,
        prefill_tile_flops=4.0 * layers * patches * width / tp,
    )
    yield ElementwiseWork(
        # as of a dense layer of the language model: two norms and sums of the hidden state, and the activation
        moved_bytes=layers * patches * ACTIVATION_BYTES * (8.0 * width + (up + 1.0) * inner / tp),
        kernels=layers * KERNELS_PER_LAYER + zero,
    )
    message = patches * width * ACTIVATION_BYTES
    yield CollectiveWork(
        name=IMAGE_ENCODER, op="all_reduce", message_bytes=message, group=layout.tp, times=2.0 * layers
    )


def _product(m: Array, k: float | Array, n: Array, layers: float) -> Product:
    return Product(
        name=IMAGE_ENCODER, m=m, k=k, n=n, layers=layers, weights=k * n + 0.0 * m, flops=2.0 * m * k * n, kind="half"
    )


def image_gib(model: Model, layout: DeploymentArrays) -> tuple[Array, Array]:
    """Return the peak of the encoder's pass, and the cache of what it made, that vLLM profiles beside the language model, shape (n,) each.

    Both are of as many images of the largest size as a step's tokens hold, at least one (v1/core/encoder_cache_manager.py,
    ``compute_mm_encoder_budget``). A layer holds two hidden states, queries, keys and values with their result, or the products of the
    feed-forward.
    """
    encoder = encoder_of(model)
    if model.images is None or encoder is None:
        return np.zeros(len(layout)), np.zeros(len(layout))
    budget = np.maximum(layout.max_num_batched_tokens, float(encoder.most_tokens))
    patches = budget * model.images.image.patches / model.images.image.tokens
    width, inner = float(encoder.hidden_size), float(encoder.intermediate_size)
    block = 2.0 * width + np.maximum(4.0 * width, (3.0 if encoder.gated else 2.0) * inner) / layout.tp
    return patches * block * ACTIVATION_BYTES / GIB, budget * model.hidden_size * ACTIVATION_BYTES / GIB
