"""Which part of a model one GPU holds, when its matrices are sliced (tensor parallel) and its layers are (pipeline)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.engines.torch_stages import balanced_stages
from catalog.models.sizes import attention_parameters, expert_parameters, mlp_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLayout:
    """The place of one process among ``tp * pp``: those of one stage have neighbouring ranks."""

    tp: int
    stages: tuple[range, ...]
    """The layers of each pipeline stage."""
    rank: int

    @property
    def pp(self) -> int:
        return len(self.stages)

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp

    @property
    def stage(self) -> int:
        return self.rank // self.tp

    @property
    def layers(self) -> range:
        return self.stages[self.stage]

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.pp - 1

    def share(self, size: int) -> tuple[int, int]:
        """Begin and end of this process's part of ``size`` rows or columns, which ``tp`` divides."""
        assert size % self.tp == 0
        part = size // self.tp
        return self.tp_rank * part, (self.tp_rank + 1) * part

    def kv_share(self, kv_heads: int) -> tuple[int, int]:
        """Return the KV heads of this process; where there are fewer than processes, neighbours hold the same one."""
        if kv_heads >= self.tp:
            return self.share(kv_heads)
        head = self.tp_rank * kv_heads // self.tp
        return head, head + 1

    def vocabulary_share(self, vocab_size: int) -> tuple[int, int, int]:
        """Begin and end of this process's tokens, and how many each process has once the vocabulary is padded."""
        part = -(-vocab_size // self.tp)
        begin = min(self.tp_rank * part, vocab_size)
        return begin, min(begin + part, vocab_size), part


def lay_out(model: Model, *, tp: int, pp: int, rank: int, costs: Sequence[float] | None = None) -> ProcessLayout:
    """Return the place of process ``rank``; ``costs`` are those of the layers and, last, of the head, for balanced stages.

    Without costs the weights that a token meets stand in: they decide the time of a decode step of few sequences.
    """
    costs = weight_costs(model) if costs is None else costs
    assert len(costs) == model.num_hidden_layers + 1
    return ProcessLayout(tp=tp, stages=balanced_stages(costs[:-1], pp, last=costs[-1]), rank=rank)


def weight_costs(model: Model) -> list[float]:
    """Return weights that one token meets in each layer and, last, in the head."""
    experts = model.num_experts_per_tok * expert_parameters(model) if model.num_experts else 0
    dense = mlp_parameters(model, model.intermediate_size)
    layers = [
        float(attention_parameters(model) + (experts if has_experts(model, layer) else dense))
        for layer in range(model.num_hidden_layers)
    ]
    return [*layers, float(model.vocab_size * model.hidden_size)]


def has_experts(model: Model, layer: int) -> bool:
    """Return whether a layer has experts: of those after the first dense ones every ``moe_layer_step``-th (``Model``)."""
    after = layer + 1 - model.first_dense_layers
    return bool(model.num_experts) and after > 0 and after % model.moe_layer_step == 0
