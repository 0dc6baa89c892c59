"""The plainest run there is of a model, for others to be compared with: one process, no fused kernels, one sequence at a
time, every token known beforehand.

A layer's weights are made or read when its turn comes and forgotten after it, so that models of any size fit beside
whatever else is on the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from catalog.engines.torch_layout import ProcessLayout
from probes.torch_engine.kv_cache import CacheMemory
from probes.torch_engine.links import Links
from probes.torch_engine.model_settings import read_settings
from probes.torch_engine.transformer import TokenStep, Transformer
from probes.torch_engine.weights import read_weights

if TYPE_CHECKING:
    from catalog.schema import Model
    from probes.torch_engine.weight_sources import Source


def reference_logits(model: Model, source: Source, ids: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Return logits (sequences, length, vocabulary) after each of the tokens ``ids``, (sequences, length), in float32
    on the CPU.

    It is computed in ``dtype`` where ``ids`` are; attention is a product, a softmax and a product (PyTorch's "math").
    """
    settings, device = read_settings(model), ids.device
    length = ids.shape[1]
    alone = ProcessLayout(tp=1, stages=(range(model.num_hidden_layers),), rank=0)
    links = Links(alone)
    # a stage a layer, and a last one of head alone
    stages = (*(range(layer, layer + 1) for layer in range(model.num_hidden_layers)), range(0))
    streams = list(ids.split(1))
    step = TokenStep(positions=torch.arange(length, device=device), context=length)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        for stage in range(len(stages)):
            layout = ProcessLayout(tp=1, stages=stages, rank=stage)
            weights = read_weights(model, layout, source, dtype=dtype, device=device)
            transformer = Transformer(model, settings, layout, weights, links, positions=length)
            memory = CacheMemory(
                layers=1,
                tokens=length,
                kv_heads=model.num_key_value_heads,
                head_dim=model.head_dim,
                dtype=dtype,
                device=device,
            )
            if layout.is_last:
                # every token of a sequence as the last one of a sequence of its own: they all have logits then
                streams = [stream.view(length, 1, -1) for stream in streams]
            streams = [transformer.forward(stream, step, memory.divided(1, length)) for stream in streams]
    return torch.stack([stream.float().cpu() for stream in streams])
