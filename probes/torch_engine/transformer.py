"""A decoder-only transformer of the Llama family in plain PyTorch: one pipeline stage of it, one slice of its matrices.

Llama, Mistral, Qwen2 and Qwen3 (biases, norms on queries and keys), Mixtral and Qwen3-MoE. All sequences of a batch stand
at the same position, as in the static regime; keys and values go to a cache of fixed size.

Letters in shapes: T tokens of a step (rows x length), H model width, h query and k KV heads of this process, d head width.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from probes.torch_engine.fused_kernels import LayerKernels
from probes.torch_engine.layer import AttentionWeights, DenseWeights, ExpertWeights

if TYPE_CHECKING:
    from catalog.engines.torch_layout import ProcessLayout
    from catalog.schema import Model
    from probes.torch_engine.kv_cache import Cache
    from probes.torch_engine.links import Links
    from probes.torch_engine.model_settings import Rotary, Settings
    from probes.torch_engine.weights import Weights

ANY_LENGTH = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN, which makes a plan for every new length of the context: with it a decode step that was not recorded took
34 ms where a prefill pass of as many launches took 10 (Llama-3.1-8B on an H200)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStep:
    """What one pass computes: the tokens at ``positions`` of each of some sequences."""

    positions: torch.Tensor
    """(length,) int64, on the device; from 0 on, or one."""
    context: int
    """Tokens in the cache once the step is done; the most there can be, where the step is recorded."""
    used: torch.Tensor | None = None
    """(rows,) int32: tokens in the cache of each sequence once the step is done, read on the device when the step's
    kernels, recorded in a CUDA graph, are replayed at later positions."""


class Transformer:
    """What one process computes of a model."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        layout: ProcessLayout,
        weights: Weights,
        links: Links,
        *,
        positions: int,
        kernels: LayerKernels | None = None,
    ) -> None:
        """Take ``positions``, how many tokens a sequence may have."""
        self.model, self.settings, self.layout = model, settings, layout
        self.weights, self.links = weights, links
        self.kernels = kernels or LayerKernels()
        begin, end = layout.kv_share(model.num_key_value_heads)
        self.kv_heads = end - begin
        self.heads = model.num_attention_heads // layout.tp
        some = next(weights.tensors())
        self.dtype, self.device = some.dtype, some.device
        angles = torch.outer(torch.arange(positions).float(), frequencies(settings.rotary, model.head_dim))
        self._cosine = angles.cos().to(self.device, self.dtype)[:, None]
        self._sine = angles.sin().to(self.device, self.dtype)[:, None]

    def forward(self, entering: torch.Tensor, step: TokenStep, cache: Cache) -> torch.Tensor:
        """Turn token ids (rows, length) on the first stage, else the activations (rows, length, H) that the stage
        before it returned, into activations; on the last stage into the logits of each sequence's last token, (rows,
        vocabulary).
        """
        stream = self._embed(entering) if self.layout.is_first else entering
        rows, length = stream.shape[:2]
        stream = stream.reshape(rows * length, -1)
        added = torch.zeros_like(stream)
        mask = self._window_mask(step, length)
        turn = self._cosine[step.positions], self._sine[step.positions]
        with closing(self.weights.in_turn(self.links.traffic)) as layers:
            for layer, (attention, block) in enumerate(layers):
                normed, stream = self.kernels.add_norm(added, stream, attention.norm, self.settings.norm_eps)
                normed = normed.view(rows, length, -1)
                added = self._attend(normed, attention, step, cache.layer(layer), turn=turn, mask=mask)
                normed, stream = self.kernels.add_norm(added, stream, block.norm, self.settings.norm_eps)
                added = self._dense(normed, block) if isinstance(block, DenseWeights) else self._routed(normed, block)
        if not self.layout.is_last:
            return (stream + added).view(rows, length, -1)
        assert self.weights.norm is not None
        assert self.weights.head is not None
        last = slice(length - 1, None, length)
        normed, _ = self.kernels.add_norm(added[last], stream[last], self.weights.norm, self.settings.norm_eps)
        return self.links.all_gather(functional.linear(normed, self.weights.head))[:, : self.model.vocab_size]

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        assert self.weights.embedding is not None
        if self.layout.tp == 1:
            return functional.embedding(ids, self.weights.embedding)
        begin, end, _ = self.layout.vocabulary_share(self.model.vocab_size)
        elsewhere = (ids < begin) | (ids >= end)
        own = functional.embedding((ids - begin).masked_fill(elsewhere, 0), self.weights.embedding)
        return self.links.all_reduce(own.masked_fill(elsewhere[..., None], 0))

    def _window_mask(self, step: TokenStep, length: int) -> torch.Tensor | None:
        """Return a mask (length, length), True where a query may look, if the prompt is longer than the model's window."""
        window = self.model.sliding_window
        if not window or length <= window:
            return None
        back = step.positions[:, None] - step.positions
        return (back >= 0) & (back < window)

    def _attend(
        self,
        x: torch.Tensor,
        weights: AttentionWeights,
        step: TokenStep,
        cache: tuple[torch.Tensor, torch.Tensor],
        *,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        rows, length = x.shape[:2]
        width, heads, kv_heads = self.model.head_dim, self.heads, self.kv_heads
        joined = functional.linear(x, weights.qkv, weights.qkv_bias).view(rows, length, -1, width)
        q = self.kernels.place_heads(joined, weights.qk_norms, self.settings.norm_eps, turn, step.positions, cache)
        if length > 1:
            k, v = (tensor[:, :length].transpose(1, 2) for tensor in cache)
            mixed = functional.scaled_dot_product_attention(
                q.transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=heads > kv_heads
            ).transpose(1, 2)
        elif step.used is None:
            mixed = self._attend_cache(q, *cache, step.context)
        else:
            from probes.torch_engine.triton_kernels import attend_used  # imports triton

            mixed = attend_used(q.view(rows, heads, width), *cache, step.used, self.model.sliding_window)
        out = self.links.all_reduce(functional.linear(mixed.reshape(rows * length, -1), weights.out))
        return out if weights.out_bias is None else out + weights.out_bias

    def _attend_cache(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, context: int) -> torch.Tensor:
        """Attend with one query (rows, 1, h, d) a sequence over the first ``context`` places of the cache, (rows,
        places, k, d).
        """
        rows = q.shape[0]
        begin = max(0, context - self.model.sliding_window) if self.model.sliding_window else 0
        # the query heads that share a KV head read it once, as if they were queries at several positions
        folded = q.view(rows, self.kv_heads, self.heads // self.kv_heads, -1)
        k, v = (tensor[:, begin:context].transpose(1, 2) for tensor in (keys, values))
        with sdpa_kernel(ANY_LENGTH):
            return functional.scaled_dot_product_attention(folded, k, v)

    def _dense(self, x: torch.Tensor, weights: DenseWeights) -> torch.Tensor:
        inner = self.kernels.swiglu(functional.linear(x, weights.gate_up, weights.gate_up_bias))
        out = self.links.all_reduce(functional.linear(inner, weights.down))
        return out if weights.down_bias is None else out + weights.down_bias

    def _routed(self, x: torch.Tensor, weights: ExpertWeights) -> torch.Tensor:
        """Send each token (T, H) through the experts its router likes best; all shapes are the same whatever it likes."""
        experts = self.model.num_experts_per_tok
        likes, chosen = functional.linear(x, weights.router).float().softmax(dim=-1).topk(experts, dim=-1)
        if self.settings.norm_topk:
            likes = likes / likes.sum(dim=-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)  # of the T x each pairs, by expert
        counts = torch.zeros(self.model.num_experts, dtype=torch.int32, device=x.device)
        counts.index_add_(0, chosen.flatten(), torch.ones_like(order, dtype=torch.int32))
        ends = counts.cumsum(0, dtype=torch.int32)
        inner = self.kernels.swiglu(functional.grouped_mm(x[order // experts], weights.gate_up.mT, offs=ends))
        out = functional.grouped_mm(inner, weights.down.mT, offs=ends)
        unsorted = torch.empty_like(out).index_copy_(0, order, out).view(*chosen.shape, -1)
        return self.links.all_reduce((unsorted * likes.to(x.dtype)[..., None]).sum(dim=1))


def frequencies(rotary: Rotary, head_dim: int) -> torch.Tensor:
    """Return radians per position of each pair of a head's coordinates, (d / 2,) float32.

    Linear: all slower by the factor (arXiv 2306.15595). Llama 3.1: only those whose wavelength is long against the
    context of the pre-training, with a smooth passage (its reference code, ``apply_scaling``).
    """
    plain = rotary.theta ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    if rotary.kind == "default":
        return plain
    if rotary.kind == "linear":
        return plain / rotary.factor
    turns = rotary.original_positions * plain / (2 * math.pi)
    smooth = (turns - rotary.low_freq_factor) / (rotary.high_freq_factor - rotary.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * plain / rotary.factor + smooth * plain
