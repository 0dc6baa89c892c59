"""One process's weights: its layers, and of their matrices its slices, laid out as the kernels want them.

Tensor parallel as in Megatron-LM (arXiv 1909.08053): queries, keys, values, gate and up by columns (of the product; rows
of the stored matrix), output and down by rows, embedding and head by vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from catalog.engines.torch_layout import has_experts
from probes.torch_engine.layer import AttentionWeights, DenseWeights, ExpertWeights
from probes.torch_engine.offload import HostLayer, LayerStream, layer_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Mapping

    from catalog.engines.torch_layout import ProcessLayout
    from catalog.schema import Model
    from probes.torch_engine.layer import Layer
    from probes.torch_engine.links import LinkTraffic
    from probes.torch_engine.weight_sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Everything one process holds."""

    embedding: torch.Tensor | None
    """(its tokens, padded; H), on the first stage; and on the last one where the head is tied to it."""
    layers: tuple[Layer, ...]
    """As they lie on the device; those that are in the host's memory share the buffers of ``stream``."""
    stream: LayerStream | None
    """None if all layers are on the device."""
    norm: torch.Tensor | None
    """(H,), on the last stage."""
    head: torch.Tensor | None
    """(its tokens, padded; H), on the last stage."""

    def in_turn(self, traffic: LinkTraffic) -> Generator[Layer, None, None]:
        """Yield the layers for one pass, see ``LayerStream.through``; it must be closed."""
        yield from self.layers if self.stream is None else self.stream.through(self.layers, traffic)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield each tensor once."""
        seen: set[int] = set()
        tensors = [tensor for layer in self.layers for tensor in layer_tensors(layer)]
        for tensor in (self.embedding, self.norm, self.head, *tensors):
            if tensor is not None and tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                yield tensor

    def nbytes(self) -> int:
        """Count the bytes on the device."""
        memories = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in self.tensors()}
        return sum(memory.nbytes() for memory in memories.values())


def read_weights(
    model: Model,
    layout: ProcessLayout,
    source: Source,
    *,
    dtype: torch.dtype,
    device: torch.device,
    offloaded: Collection[int] = (),
) -> Weights:
    """Read what the process at ``layout`` holds, part by part from ``source``; ``offloaded`` layers in the host's
    memory.

    Raises:
        InputError: the source lacks a tensor, or has it in another shape; or the host has too little memory.

    """
    return _Reader(model, layout, source, dtype, device).weights(offloaded)


class _Reader:
    def __init__(
        self, model: Model, layout: ProcessLayout, source: Source, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.model, self.layout, self.source = model, layout, source
        self.dtype, self.device = dtype, device

    def weights(self, offloaded: Collection[int]) -> Weights:
        model, layout = self.model, self.layout
        tied = model.tie_word_embeddings
        needed = layout.is_first or (layout.is_last and tied)
        embedding = self.vocabulary("model.embed_tokens.weight") if needed else None
        head = None
        if layout.is_last:
            head = embedding if tied else self.vocabulary("lm_head.weight")
        layers: dict[int, Layer] = {}
        on_host: dict[int, HostLayer] = {}
        for place, number in enumerate(layout.layers):
            layer = (self.attention(number), self.feed_forward(number))
            if number in offloaded:
                on_host[place] = HostLayer.of(layer)
            else:
                layers[place] = layer
        stream = LayerStream(on_host, self.device) if on_host else None
        layers |= stream.layers if stream else {}
        return Weights(
            embedding=embedding,
            layers=tuple(layers[place] for place in sorted(layers)),
            stream=stream,
            norm=self.whole("model.norm.weight", model.hidden_size) if layout.is_last else None,
            head=head,
        )

    def attention(self, layer: int) -> AttentionWeights:
        model, name = self.model, f"model.layers.{layer}.self_attn"
        hidden, width = model.hidden_size, model.head_dim
        heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
        shares = {"q_proj": self.layout.share(heads)}
        shares |= dict.fromkeys(("k_proj", "v_proj"), self.layout.kv_share(kv_heads))
        rows = {part: (begin * width, end * width) for part, (begin, end) in shares.items()}
        totals = {"q_proj": heads * width, "k_proj": kv_heads * width, "v_proj": kv_heads * width}
        return AttentionWeights(
            norm=self.whole(f"model.layers.{layer}.input_layernorm.weight", hidden),
            qkv=self.stacked({f"{name}.{part}.weight": (totals[part], hidden, *rows[part]) for part in rows}),
            qkv_bias=self.biases({f"{name}.{part}.bias": (totals[part], *rows[part]) for part in rows})
            if model.qkv_bias
            else None,
            qk_norms=(self.whole(f"{name}.q_norm.weight", width), self.whole(f"{name}.k_norm.weight", width))
            if model.qk_norm
            else None,
            out=self.taken(f"{name}.o_proj.weight", (hidden, heads * width), 1, *rows["q_proj"]),
            out_bias=self.whole(f"{name}.o_proj.bias", hidden) if model.o_bias else None,
        )

    def feed_forward(self, layer: int) -> DenseWeights | ExpertWeights:
        model, hidden = self.model, self.model.hidden_size
        norm = self.whole(f"model.layers.{layer}.post_attention_layernorm.weight", hidden)
        if has_experts(model, layer):
            return self.experts(layer, norm)
        name, width = f"model.layers.{layer}.mlp", model.intermediate_size
        begin, end = self.layout.share(width)
        into = (f"{name}.gate_proj", f"{name}.up_proj")
        return DenseWeights(
            norm=norm,
            gate_up=self.stacked({f"{projection}.weight": (width, hidden, begin, end) for projection in into}),
            gate_up_bias=self.biases({f"{projection}.bias": (width, begin, end) for projection in into})
            if model.mlp_bias
            else None,
            down=self.taken(f"{name}.down_proj.weight", (hidden, width), 1, begin, end),
            down_bias=self.whole(f"{name}.down_proj.bias", hidden) if model.mlp_bias else None,
        )

    def experts(self, layer: int, norm: torch.Tensor) -> ExpertWeights:
        model, hidden, width = self.model, self.model.hidden_size, self.model.moe_intermediate_size
        mixtral = model.model_type == "mixtral"
        name = f"model.layers.{layer}.{'block_sparse_moe' if mixtral else 'mlp'}"
        gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        begin, end = self.layout.share(width)
        columns = end - begin
        gate_up = self.empty(model.num_experts, 2 * columns, hidden)
        downs = self.empty(model.num_experts, hidden, columns)
        for expert in range(model.num_experts):
            of = f"{name}.experts.{expert}"
            gate_up[expert, :columns] = self.source.part(f"{of}.{gate}.weight", (width, hidden), 0, begin, end)
            gate_up[expert, columns:] = self.source.part(f"{of}.{up}.weight", (width, hidden), 0, begin, end)
            downs[expert] = self.source.part(f"{of}.{down}.weight", (hidden, width), 1, begin, end)
        router = self.taken(f"{name}.gate.weight", (model.num_experts, hidden), 0, 0, model.num_experts)
        return ExpertWeights(norm=norm, router=router, gate_up=gate_up, down=downs)

    def vocabulary(self, name: str) -> torch.Tensor:
        begin, end, part = self.layout.vocabulary_share(self.model.vocab_size)
        shape = (self.model.vocab_size, self.model.hidden_size)
        padded = self.empty(part, self.model.hidden_size).zero_()
        if begin < end:
            padded[: end - begin] = self.source.part(name, shape, 0, begin, end)
        return padded

    def stacked(self, parts: Mapping[str, tuple[int, ...]]) -> torch.Tensor:
        """Stack rows of several matrices, (rows, columns, begin, end) each, below one another."""
        return self._filled(parts, lambda size: (size[0], size[1]))

    def biases(self, parts: Mapping[str, tuple[int, ...]]) -> torch.Tensor:
        """Join parts of several vectors, (length, begin, end) each, one after another."""
        return self._filled(parts, lambda size: (size[0],))

    def _filled(
        self, parts: Mapping[str, tuple[int, ...]], shape_of: Callable[[tuple[int, ...]], tuple[int, ...]]
    ) -> torch.Tensor:
        rows = [size[-1] - size[-2] for size in parts.values()]
        columns = next(shape_of(size)[1:] for size in parts.values())
        filled = self.empty(sum(rows), *columns)
        for target, (name, size) in zip(filled.split(rows), parts.items(), strict=True):
            target.copy_(self.source.part(name, shape_of(size), 0, size[-2], size[-1]))
        return filled

    def whole(self, name: str, size: int) -> torch.Tensor:
        return self.taken(name, (size,), 0, 0, size)

    def taken(self, name: str, shape: tuple[int, ...], dim: int, begin: int, end: int) -> torch.Tensor:
        # contiguous and of its own: a slice of a mapped file would keep all of it in memory
        part = self.source.part(name, shape, dim, begin, end)
        return self.empty(*part.shape).copy_(part)

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)
