"""What drafting tokens and verifying them takes: steps of a deployment that speculates, by the model of time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import ATTENTION, HOST, LM_HEAD
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.forward_pass import decode_pass, forward_pass_cost
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.operators import ForwardPass
from catalog.engines import check_contexts, find_engine, resolve
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.units import GIB

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from advisor.perf_model.memory.parts import Memory
    from catalog.features import DraftMethod
    from catalog.schema import Deployment, Model
    from catalog.units import Array


HEAD_BYTES = 2.0
"""Of a parameter of a drafting head: they are published in 16 bits, whatever the model's weights are in."""
STATES = 6.0
"""Hidden states of a step's tokens that are held for a head: three of the model's layers, and those side by side (arXiv 2503.01840)."""
LOGIT_BYTES = 6.0
"""Of a drafted token and word: in 16 bits as computed and in 32 as they are compared (vllm/v1/sample/rejection_sampler.py)."""
USUAL_BATCH, USUAL_CONTEXT = 32.0, 1024.0
"""Where decode attention of a model that drafts is compared with that of the one it drafts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSteps:
    """Steps with and without drafts of one deployment."""

    cost_model: CostModel
    method: DraftMethod
    drafter: CostModel | None
    """Of a model of its own that drafts."""

    @classmethod
    def of(cls, cost_model: CostModel, deployment: Deployment, method: DraftMethod, drafter: str | None) -> DraftSteps:
        """Return the steps of a resolved deployment; ``drafter`` names the model that drafts, or a head's checkpoint.

        Raises:
            InputError: the engine or the model cannot, or there is no such model.

        """
        if not cost_model.timing.cuts_prompts:
            raise InputError("engine torch does not speculate; leave out speculate")
        check_contexts(deployment.dcp, find_engine(deployment.engine), drafts=True)
        if method == "mtp" and not cost_model.model.mtp_parameters:
            raise InputError(
                f"{cost_model.model.name} has no heads that predict several tokens; take eagle, ngram or draft:MODEL"
            )
        model = _drafter(cost_model, deployment, drafter) if drafter and method == "draft" else None
        return cls(cost_model=cost_model, method=method, drafter=model)

    def believing(self, cost_model: CostModel) -> DraftSteps:
        """Return the same under the parameters of another cost model."""
        drafter = self.drafter
        if drafter is not None:
            drafter = replace(drafter, parameters=cost_model.parameters, ideal=cost_model.ideal)
        return replace(self, cost_model=cost_model, drafter=drafter)

    def times(self, batches: Array, lengths: list[int], context: Array | float) -> tuple[Array, Array]:
        """Return milliseconds of a step without, shape (n,), and with each length, (lengths, n), at sequences of ``context`` tokens."""
        plain = self._verified(self.cost_model, batches, 1, context)
        drafted = [
            self._verified(self.cost_model, batches, length + 1, context) + self._drafts(batches, length, context)
            for length in lengths
        ]
        return plain, np.array(drafted)

    def _verified(self, cost_model: CostModel, batches: Array, tokens: int, context: Array | float) -> Array:
        """Return milliseconds of a pass that computes so many tokens of each sequence, shape (n,).

        A sequence's cache is read once for all of its tokens; where their products with it take longer, those count.
        """
        rows = _rows(cost_model, len(batches))
        step = decode_pass(cost_model.model, batches, np.broadcast_to(np.asarray(context, dtype=float), batches.shape))
        step = replace(step, tokens=batches * tokens, sequences=batches * tokens)
        cost = forward_pass_cost(rows, step, prefills=0.0)
        read = cost.by_operator().get(ATTENTION, 0.0)
        zero = np.zeros_like(batches)
        pairs = batches * tokens * context
        windowed = batches * tokens * step.windowed_context
        alone = forward_pass_cost(rows, replace(step, decodes=zero, pairs=pairs, windowed_pairs=windowed), prefills=0.0)
        compute = alone.by_operator().get(ATTENTION, 0.0)
        # The host handles sequences, however many tokens each has in a step.
        spared = cost_model.parameters.sequence_us * 1e-3 * batches * (tokens - 1)
        return np.asarray((cost.total_ms + np.maximum(compute - read, 0.0) - spared) * rows.factors[1])

    def _drafts(self, batches: Array, length: int, context: Array | float) -> Array:
        """Return milliseconds of drafting so many tokens, one after the other; the first pass takes in what was accepted."""
        if self.method == "ngram":
            return np.zeros_like(batches)
        if self.drafter is not None:
            passes = [self._verified(self.drafter, batches, tokens, context) for tokens in (length + 1, 1)]
        else:
            passes = [self._layer(batches, tokens, context) for tokens in (length + 1, 1)]
        return passes[0] + (length - 1) * passes[1]

    def _layer(self, batches: Array, tokens: int, context: Array | float) -> Array:
        """Return milliseconds of one layer like the model's own, and its head for a token of each sequence: what an EAGLE
        head or a predictor of several tokens is. The host launches it as it does a pass.
        """
        rows = _rows(self.cost_model, len(batches))
        step = decode_pass(
            self.cost_model.model, batches, np.broadcast_to(np.asarray(context, dtype=float), batches.shape)
        )
        cost = forward_pass_cost(rows, replace(step, tokens=batches * tokens), prefills=0.0)
        by_operator = cost.by_operator()
        head = by_operator.get(LM_HEAD, np.zeros_like(batches))
        layers = cost.total_ms - head - by_operator.get(HOST, 0.0)
        layer = layers / self.cost_model.model.num_hidden_layers
        return np.asarray((layer + head + self.cost_model.parameters.step_ms) * rows.factors[1])

    def pass_ms(self, tokens: Array) -> Array:
        """Return milliseconds of one drafting pass over so many tokens, shape (n,), without its head and its attention to the cache."""
        if self.method == "ngram":
            return np.zeros_like(tokens)
        drafting = self.cost_model if self.drafter is None else self.drafter
        by_operator = self._cost(drafting, tokens, np.ones_like(tokens))
        body = sum(time for name, time in by_operator.items() if name not in {LM_HEAD, HOST}) + np.zeros_like(tokens)
        layers = drafting.model.num_hidden_layers if self.drafter is None else 1
        return np.asarray(body / layers + drafting.parameters.step_ms)

    def head_ms(self, sequences: Array, *, drafting: bool) -> Array:
        """Return milliseconds of the head for so many tokens, of what drafts or of the model itself, shape (n,)."""
        if drafting and self.method == "ngram":
            return np.zeros_like(sequences)
        model = self.drafter if drafting and self.drafter is not None else self.cost_model
        head = self._cost(model, sequences, sequences).get(LM_HEAD, 0.0)
        return np.asarray(head + np.zeros_like(sequences))

    def cache_left(self, draft_len: int) -> float:
        """Return the share of the KV cache's tokens that are left beside what drafts."""
        drafter = None if self.drafter is None else self.drafter.memory
        left = cache_left(
            self.cost_model.model, self.cost_model.layout, self.cost_model.memory, self.method, draft_len, drafter
        )
        return float(left[0])

    def attention_share(self, draft_len: int) -> float:
        """Return what attention of the drafting passes of a step takes, as a share of the model's own."""
        if self.method == "ngram":
            return 0.0
        if self.drafter is None:
            return draft_len / self.cost_model.model.num_hidden_layers
        own, other = (self._attention(model) for model in (self.cost_model, self.drafter))
        return draft_len * other / own if own > 0.0 else 0.0

    @staticmethod
    def _attention(cost_model: CostModel) -> float:
        step = decode_pass(cost_model.model, np.array([USUAL_BATCH]), np.array([USUAL_CONTEXT]))
        times = forward_pass_cost(cost_model, step, prefills=0.0).by_operator()
        return float(np.broadcast_to(times.get(ATTENTION, 0.0), 1)[0])

    @staticmethod
    def _cost(cost_model: CostModel, tokens: Array, sequences: Array) -> dict[str, Array]:
        """Return milliseconds by operator of passes that attend to nothing, each shape (n,)."""
        rows = cost_model.take(np.zeros(len(tokens), dtype=np.intp))
        zero = np.zeros_like(tokens)
        step = ForwardPass(
            tokens=tokens,
            sequences=sequences,
            decodes=zero,
            context=zero,
            windowed_context=zero,
            pairs=zero,
            windowed_pairs=zero,
        )
        return forward_pass_cost(rows, step, prefills=0.0).by_operator()


def cache_left(
    model: Model,
    layout: DeploymentArrays,
    room: Memory,
    method: DraftMethod,
    draft_len: int,
    drafter: Memory | None = None,
) -> Array:
    """Return the share of the KV cache's tokens that are left beside the weights, the states and the cache of what drafts, and the
    logits of the drafted tokens, shape (n,); ``drafter``: memory of a model of its own that drafts.
    """
    taken = draft_len * layout.max_num_seqs * model.vocab_size * LOGIT_BYTES / GIB
    cached = np.zeros_like(taken)
    if drafter is not None:
        taken, cached = taken + drafter.weights_gib, cached + drafter.kv_bytes_per_token
    elif method != "ngram":
        states = STATES * layout.max_num_batched_tokens * model.hidden_size * HEAD_BYTES
        taken = taken + (head_parameters(model, method) * HEAD_BYTES / layout.tp + states) / GIB
        cached = room.kv_bytes_per_token * layout.pp / model.num_hidden_layers
    held, own = np.maximum(room.kv_gib, 1e-9), np.maximum(room.kv_bytes_per_token, 1e-9)
    return np.asarray(np.maximum(held - taken, 0.0) / held * own / (own + cached))


def _rows(cost_model: CostModel, count: int) -> CostModel:
    """Return the cost model with so many rows: its own where it has as many, else its first over and over."""
    return cost_model if len(cost_model.layout) == count else cost_model.take(np.zeros(count, dtype=np.intp))


def head_parameters(model: Model, method: DraftMethod) -> float:
    """Return the parameters of what drafts beside a model: its own predictors of several tokens, or a head like EAGLE-3's.

    That is one dense layer and a product that takes in three of the model's states (Li et al., arXiv 2503.01840); vocabulary and its
    head are the model's.
    """
    if method == "mtp":
        return float(model.mtp_parameters)
    hidden = model.hidden_size
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    return float(hidden * (2 * queries + 2 * keys + 3 * model.intermediate_size + 3 * hidden))


def _drafter(cost_model: CostModel, deployment: Deployment, name: str) -> CostModel:
    """Return the model that drafts, laid out as the one it drafts for."""
    model: Model = find_model(name).value
    chosen = resolve(replace(deployment, dtype="auto", ep=1), model, cost_model.cluster).value
    layout = DeploymentArrays.of([chosen], model, cost_model.cluster.gpu)
    return replace(
        cost_model,
        model=model,
        layout=layout,
        memory=memory(model, cost_model.cluster, layout, chosen.engine),
        correction=None,
    )
