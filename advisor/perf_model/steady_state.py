"""The steady state: a fixed number of requests is kept in flight, their arrivals staggered, prefill chunks sharing steps with decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import HOST, Cost
from advisor.perf_model.forward_pass import decode_pass, forward_pass_cost, prefill_pass, waiting_for_turns
from advisor.perf_model.lockstep import longest_rank, shared_experts
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.perf_model.operators import ForwardPass, causal_pairs
from advisor.perf_model.phase_times import PhaseTimes

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from advisor.perf_model.lockstep import LongestRank
    from catalog.units import Array


def _steady_first(
    step_ms: Array, carrying_ms: Array, chunks: Array, others: Array, output_len: Array, running: Array
) -> Array:
    """Return the mean milliseconds from a request's arrival to the end of the step that its prompt, or the last chunk of it, is in.

    Requests come independently of each other and of the steps. One that comes waits for half a step and, where there is
    decoding between which it could come, for one more, which was scheduled ahead. In its own step there are then as many
    prompts as in any, and its own: ``others`` is what they add to ``carrying_ms``, a step with prompts, as a share of it.
    The only one in flight (``running`` 1) comes when the one before is done, and finds no step to wait for.
    """
    waiting = step_ms * (0.5 + (output_len - 1.0) / output_len) * np.clip(running - 1.0, 0.0, 1.0)
    return waiting + (chunks + others) * carrying_ms


def _at_once(cost_model: CostModel, input_len: Array, output_len: Array) -> Array:
    """Return how many requests the KV cache of a replica holds while each grows from its prompt to its last token, at least one.

    Where outputs are reserved each takes its whole length from the beginning; else, at a random moment of its life, half its
    output on average, but never fewer than fit at their whole length.
    """
    model, memory, layout = cost_model.model, cost_model.memory, cost_model.layout
    reserved = cost_model.timing.reserves_outputs
    held = input_len + (output_len if reserved else np.ceil(output_len / 2.0))
    fitting = np.maximum(max_concurrency(model, memory, layout, input_len + output_len), 1.0)
    return fitting if reserved else np.maximum(max_concurrency(model, memory, layout, held), fitting)


def _unevenness(cost_model: CostModel, groups: Array) -> Array:
    """Return the largest of several micro-batches, which sets the pace, as a multiple of their mean, shape (n,)."""
    return np.where(groups > 1, np.minimum(1.0 + cost_model.parameters.group_imbalance, groups), 1.0)


def _carried(mixed: Array, groups: Array) -> Array:
    """Return the share of rounds that are as long as a step with a chunk, of which ``mixed`` of the steps carry one, shape (n,).

    The micro-batches of a pipeline go round behind each other: a round lasts as long as its longest step; so do ranks in step.
    ``groups``: as many micro-batches as there are of the largest one's size, or ranks.
    """
    return np.asarray(1.0 - (1.0 - mixed) ** groups)


def _computed(cost_model: CostModel, input_len: Array) -> Array:
    """Return the tokens of each prompt that are computed: those that the prefix cache has not, the last one in any case."""
    return np.maximum(input_len * (1.0 - cost_model.prefix_hit_rate), 1.0)


def _prompt_budget(cost_model: CostModel, share: Array, computed: Array, output_len: Array) -> tuple[Array, Array]:
    """Return the tokens of a step that are left for prompts, and the steps that are full with what each request brings, shape (n,).

    Every token a request brings takes a place in some step's budget; what decodes leave is for prompts, where they share steps.
    """
    most = cost_model.layout.max_num_batched_tokens
    beside = output_len - 1.0 if cost_model.timing.mixes_prompts else np.zeros_like(output_len)
    full_steps = share * (computed + beside) / most
    return most - share * beside / np.maximum(output_len, full_steps), full_steps


def _pass_with_prompts(cost_model: CostModel, decode: ForwardPass, tokens: Array, input_len: Array) -> ForwardPass:
    """Return the pass that computes ``tokens`` prompt tokens of prompts of ``input_len``, beside those of ``decode`` where the engine
    mixes them.
    """
    window = float(cost_model.model.sliding_window)
    computed = _computed(cost_model, input_len)
    prompts = tokens / computed
    pairs, windowed_pairs = (
        prompts * (causal_pairs(input_len, within) - causal_pairs(input_len - computed, within))
        for within in (0.0, window)
    )
    if not cost_model.timing.mixes_prompts:
        return prefill_pass(tokens, prompts, pairs, windowed_pairs)
    return ForwardPass(
        tokens=decode.tokens + tokens,
        sequences=decode.sequences + prompts,
        decodes=decode.decodes,
        context=decode.context,
        windowed_context=decode.windowed_context,
        pairs=pairs,
        windowed_pairs=windowed_pairs,
        mixed_attention=1.0 if cost_model.ideal else cost_model.timing.mixed_attention,
    )


def _carrying(cost_model: CostModel, decode: ForwardPass, tokens: Array, input_len: Array, group: LongestRank) -> Cost:
    """Return the cost of a step with ``tokens`` of prompts, which lasts as long as the longest of a group of ranks."""

    def cost(size: Array) -> Cost:
        return forward_pass_cost(cost_model, _pass_with_prompts(cost_model, decode, size, input_len), prefills=1.0)

    together = group.ranks > 1
    longest = cost(tokens * group.most)
    return shared_experts(longest, cost(tokens * group.mean), together) if together.any() else longest


def steady_state_times(cost_model: CostModel, batch: Array, input_len: Array, output_len: Array) -> PhaseTimes:
    """Time ``batch`` requests that are kept in flight on each replica; arrays of shape (n,).

    In the life of one request every other one in flight is prefilled once. With n chunks a prompt and b requests, n b
    chunks meet O - 1 + n steps: fewer chunks than steps, and that share of the steps carries one; more, and every step
    carries several, up to the token budget; above it the prompts queue and the life gets longer.
    """
    model, layout = cost_model.model, cost_model.layout
    fitting = _at_once(cost_model, input_len, output_len)
    running = np.minimum(np.minimum(batch, layout.max_num_seqs), fitting)
    groups = np.minimum(layout.pp, running)
    share = running / groups
    mixes = cost_model.timing.mixes_prompts
    computed = _computed(cost_model, input_len)
    budget, full_steps = _prompt_budget(cost_model, share, computed, output_len)
    chunks = np.ceil(computed / budget - 1e-9)
    own_steps = output_len - 1.0 + chunks
    steps = np.maximum(own_steps, full_steps)
    mixed = np.minimum(share * chunks / steps, 1.0)
    tokens = np.where(mixed < 1.0, computed / chunks, share * computed / steps)
    decoding = share * np.clip((output_len - 1.0) / steps, 0.0, 1.0)
    context = input_len + output_len / 2.0
    uneven = _unevenness(cost_model, groups)
    # A step without a chunk decodes at least one sequence; with an output of one token there is no such step.
    least = np.where(output_len > 1, np.minimum(share, 1.0), 0.0)
    decode = decode_pass(model, np.maximum(decoding * uneven, least), context)
    tokens = tokens * uneven
    plain = forward_pass_cost(cost_model, decode, prefills=0.0)
    group = longest_rank(cost_model, share * chunks / steps, budget / tokens)
    carrying = _carrying(cost_model, decode, tokens, input_len, group)
    on_prefill, on_decode = cost_model.factors
    decoding_part = plain.total_ms / np.maximum(carrying.total_ms, 1e-12) if mixes else np.zeros_like(mixed)
    carrying = carrying * (on_prefill + (on_decode - on_prefill) * np.minimum(decoding_part, 1.0))
    plain = plain * on_decode
    if not mixes:  # a step with prompts is one of their own and the one of the decodes that waited for it
        carrying = carrying + plain
    parameters = cost_model.parameters
    served = share * output_len / steps  # sequences that get a token in a mean step
    extra = np.where(groups > 1, (groups - 1.0) * (parameters.step_ms + parameters.sequence_us * 1e-3 * served), 0.0)
    plain = plain + Cost.of(HOST, overhead=waiting_for_turns(cost_model, groups, plain.total_ms + extra))
    carrying = carrying + Cost.of(HOST, overhead=waiting_for_turns(cost_model, groups, carrying.total_ms + extra))
    paced = mixed if cost_model.ideal else _carried(mixed, group.ranks * groups / uneven)  # a floor waits for nobody
    step = plain * (1.0 - paced) + carrying * paced + Cost.of(HOST, overhead=extra)
    step_ms = step.total_ms
    waves = np.maximum(batch / running, 1.0)
    life_ms = steps * step_ms
    carrying_ms = carrying.total_ms + extra
    queueing = np.maximum(steps - own_steps, 0.0) * step_ms + (waves - 1.0) * life_ms
    prompts = share * chunks / steps  # begun or gone on with in a mean step
    others = np.minimum(prompts, 1.0) * tokens / (tokens + decode.tokens) * np.clip(running - 1.0, 0.0, 1.0)
    first_ms = _steady_first(step_ms, carrying_ms, chunks, others, output_len, running)
    first_ms = np.minimum(first_ms, own_steps * step_ms) + queueing
    after = np.maximum(output_len - 1.0, 1.0)
    tpot_ms = np.where(output_len > 1, np.maximum(waves * life_ms - first_ms, 0.0) / after, 0.0)
    tpot_ms = np.maximum(tpot_ms, np.where(output_len > 1, plain.total_ms + extra, 0.0))
    ttft_ms = first_ms + parameters.admission_ms
    e2e_ms = ttft_ms + tpot_ms * (output_len - 1.0)
    return PhaseTimes(
        prefill_ms=chunks * carrying_ms,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        e2e_ms=e2e_ms,
        output_tok_s=layout.dp * batch * output_len / e2e_ms * 1e3,
        running=running,
        prefill=carrying,
        decode=step,
    )
