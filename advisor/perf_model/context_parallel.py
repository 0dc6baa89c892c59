"""What decode context parallelism adds to a pass: GPUs of a tensor-parallel group that each hold a share of every request's KV cache.

As vLLM 0.33 does it (v1/attention/ops/dcp.py ``MLADCPManager`` and ``cp_lse_ag_out_rs``, model_executor/layers/attention/mla_attention.py,
v1/attention/backends/flash_attn.py ``_forward_with_dcp``), with its default back end, ag_rs:

- Each GPU gathers the queries of all heads of its group, attends with them to its share of the context, and then the group gathers the
  logarithms of the sums and scatters the weighted outputs. Bytes of a context are divided, operations are not: more heads, fewer tokens.
- With latent attention the queries that decode go that way, and prompts gather what the cache has of their earlier tokens. With grouped
  queries all tokens of a step go that way, and attend to each other in a kernel of their own, whose outcome is merged with the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import CONTEXT_EXCHANGE
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from catalog.mixers import FLOAT32_BYTES, Attention, LatentAttention
from catalog.models.stack import stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.operators import ForwardPass
    from catalog.schema import Model
    from catalog.units import Array

LATENT_KERNELS = 1.0
"""Kernels a layer more with latent attention: the outputs are weighted (``CorrectAttnCPOutKernel``),"""
GROUPED_KERNELS = 3.0
"""and with grouped queries: that, attention among the tokens of the step, and the merging of both."""


def exchanges(
    model: Model, layout: DeploymentArrays, step: ForwardPass
) -> Iterator[tuple[str, str, Array, Array, float]]:
    """Yield name, operation, bytes of the whole tensor, shape (n,), GPUs that take part, shape (n,), and layers of each collective."""
    group = layout.dcp
    for count, layer in stack(model).counts:
        for part in layer.mixers:
            if isinstance(part, LatentAttention):
                heads = part.heads / layout.tp * group
                decoding = np.where(step.decodes > 0, group, 1.0)
                query, output, tokens = part.kv_lora_rank + part.rope_dim, part.kv_lora_rank, step.decodes
                yield from _of_queries(tokens * heads, query, output, decoding, float(count))
                gathered = _earlier_tokens(layout, step)
                held = gathered * part.read[0] * layout.kv_bytes
                yield CONTEXT_EXCHANGE, "all_gather", held, np.where(gathered > 0, group, 1.0), float(count)
            elif isinstance(part, Attention):
                heads = part.heads / layout.tp * group
                yield from _of_queries(step.tokens * heads, part.head_dim, part.value_dim, group, float(count))


def _of_queries(
    rows: Array, query: float, output: float, group: Array, layers: float
) -> Iterator[tuple[str, str, Array, Array, float]]:
    """Yield the collectives of ``rows`` queries, heads of the whole group counted: queries of ``query`` numbers, the logarithms of each
    GPU's sums, outputs of ``output`` numbers.
    """
    yield CONTEXT_EXCHANGE, "all_gather", rows * query * ACTIVATION_BYTES, group, layers
    yield CONTEXT_EXCHANGE, "all_gather", rows * group * FLOAT32_BYTES, group, layers
    yield CONTEXT_EXCHANGE, "reduce_scatter", rows * output * ACTIVATION_BYTES, group, layers


def _earlier_tokens(layout: DeploymentArrays, step: ForwardPass) -> Array:
    """Return the cached tokens that the prompts of a pass attend to, those before their chunks, shape (n,).

    A full chunk of b tokens behind c others has b (b + 1) / 2 + b c pairs. Of a chunk that does not fill the budget less is counted, in the
    proportion of its tokens.
    """
    prompts = step.tokens - step.decodes
    among = prompts * (np.minimum(prompts, layout.max_num_batched_tokens) + 1.0) / 2.0
    return np.asarray(np.maximum(step.pairs - among, 0.0) / layout.max_num_batched_tokens)


def added_kernels(model: Model, layout: DeploymentArrays) -> Array:
    """Return the small kernels more in all layers, shape (n,)."""
    kernels = 0.0
    for count, layer in stack(model).counts:
        for part in layer.mixers:
            kernels += count * (LATENT_KERNELS if isinstance(part, LatentAttention) else GROUPED_KERNELS)
    return np.where(layout.dcp > 1, kernels, 0.0)
