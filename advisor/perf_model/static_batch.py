"""Static batches: all requests arrive at once, and pass pipelines in chunks, and the KV cache in waves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import HOST, MIXED, Cost, replaced
from advisor.perf_model.forward_pass import (
    decode_pass,
    forward_pass_cost,
    prefill_pass,
    slowest_stage,
    waiting_for_turns,
)
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.perf_model.operators import causal_pairs
from advisor.perf_model.phase_times import PhaseTimes

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from catalog.units import Array


AT_ONCE = 6.0
"""Requests of a static batch that the first pass takes: as many as vLLM's front end has submitted until its engine
starts. 4 prompts of 1024 tokens get their first tokens at 0.96 of the prefill's end, 16 at 0.77, 32 of 128 tokens at 0.81
(dense models with role fit on one to four H200s, ``catalog/data/runs/vllm-0.24.0_h200_static.csv``)."""


def _whole_prefill(cost_model: CostModel, batch: Array, input_len: Array) -> tuple[Cost, Array, Array]:
    """Return times like ``_prefill``, of an engine that never cuts a prompt: each of the pp groups of sequences that decode in turn is
    prefilled in micro-batches of as many prompts as the budget holds, at least one; then all get their first tokens.
    """
    layout = cost_model.layout
    groups = np.minimum(layout.pp, batch)
    at_once = np.maximum(np.floor(layout.max_num_batched_tokens / input_len), 1.0)
    passes = groups * np.ceil(np.ceil(batch / groups) / at_once)
    requests = batch / passes
    window = float(cost_model.model.sliding_window)
    pairs, windowed = requests * causal_pairs(input_len), requests * causal_pairs(input_len, window)
    one_pass = forward_pass_cost(
        cost_model, prefill_pass(requests * input_len, requests, pairs, windowed), prefills=1.0
    )
    slowest = np.where(layout.pp > 1, slowest_stage(cost_model), 1.0)
    whole = one_pass * (1.0 + (passes - 1.0) * slowest)
    # The last stage ends each group after its micro-batches; the first takes note once it has no more to prefill.
    at_least = passes * np.where(layout.pp > 1, slowest, 1.0)
    number = np.arange(1.0, float(np.max(groups)) + 1.0)[:, None]
    ends = np.maximum(1.0 + (number * passes / groups - 1.0) * slowest, at_least)
    first = np.where(number <= groups, ends, 0.0).sum(axis=0) / groups
    admission_ms = cost_model.parameters.admission_ms + np.zeros(len(layout))
    first_ms = one_pass.total_ms * first + admission_ms
    return whole + Cost.of(HOST, overhead=admission_ms), groups, first_ms


def _prefill(cost_model: CostModel, batch: Array, input_len: Array) -> tuple[Cost, Array, Array]:
    """Return the makespan of prefilling the whole batch, the number of chunks, and the mean time to a request's first token.

    The engine starts on the requests that it has while the others are still being submitted; these follow in chunks as
    large as the budget allows. On a pipeline each chunk takes its turn on the slowest stage, and the largest passes all
    the others, too: the makespan of a proportionate flow shop, sum p + (m - 1) max p (Pinedo, Scheduling, 2016, ch. 6).
    """
    model, layout = cost_model.model, cost_model.layout
    tokens = batch * input_len
    per_chunk = np.minimum(layout.max_num_batched_tokens, layout.max_num_seqs * input_len)
    # The stages of a pipeline take up what comes sooner than a whole pass: two chunks there are alike.
    halves = (tokens <= 2.0 * per_chunk + 1e-9) & (batch > 1)
    first = np.where(layout.pp > 1, np.where(halves, tokens / 2.0, per_chunk), np.minimum(batch, AT_ONCE) * input_len)
    first = np.minimum(np.minimum(first, per_chunk), tokens)
    rest = tokens - first
    later = np.ceil(rest / per_chunk - 1e-9)
    last = np.where(later > 0, rest - (later - 1.0) * per_chunk, first)
    window = float(model.sliding_window)

    # Only where they differ from the opening chunk are the last one and one in between evaluated, and all of them in one call.
    several, between = later > 1, np.maximum(later - 1.0, 0.0)
    differs = (later > 0) & (last != first)
    everyone, ends, inner = np.arange(len(layout)), np.flatnonzero(differs), np.flatnonzero(several)
    rows = np.concatenate([everyone, ends, inner])
    wide = cost_model if len(rows) == len(layout) else cost_model.take(rows)
    chunk, lengths = np.concatenate([first, last[ends], np.minimum(per_chunk, tokens)[inner]]), input_len[rows]
    requests = chunk / lengths
    pairs, windowed = requests * causal_pairs(lengths), requests * causal_pairs(lengths, window)
    cost = forward_pass_cost(wide, prefill_pass(chunk, requests, pairs, windowed), prefills=1.0)
    bounds = np.cumsum([0, len(everyone), len(ends), len(inner)])
    opening = cost if wide is cost_model else cost.take(slice(0, bounds[1]))
    ending = cost.take(slice(bounds[1], bounds[2])) if len(ends) else None
    full = cost.take(slice(bounds[2], bounds[3])) if len(inner) else None

    slowest = np.where(layout.pp > 1, slowest_stage(cost_model), 1.0)
    # The largest chunk passes every stage, the others wait for their turn on the slowest.
    end_is_largest = (later > 0) & ~several & (last > first)
    at_end = np.where(end_is_largest, 1.0, np.where(later > 0, slowest, 0.0))
    at_opening = np.where(several | end_is_largest, slowest, 1.0) + np.where(differs, 0.0, at_end)
    whole = opening * at_opening
    if ending is not None:
        whole = whole + (ending * at_end[ends]).spread(differs)
    if full is not None:
        whole = whole + (full * (between * slowest + 1.0 - slowest)[inner]).spread(several)
    opening_ms = opening.total_ms
    ending_ms = opening_ms if ending is None else replaced(opening_ms, ends, ending.total_ms)
    full_ms = opening_ms if full is None else replaced(opening_ms, inner, full.total_ms)
    # Requests get their first token at the end of their chunk, one in several chunks at the end of its last.
    whole_ms = whole.total_ms
    middle_ms = (opening_ms + slowest * (full_ms - ending_ms) + whole_ms) / 2.0
    opened, ended = first / tokens, np.where(later > 0, last / tokens, 0.0)
    first_ms = opened * opening_ms + (1.0 - opened - ended) * middle_ms + ended * whole_ms
    first_ms = np.where(input_len > per_chunk, np.maximum(first_ms, whole_ms * (batch + 1.0) / (2.0 * batch)), first_ms)
    admission_ms = cost_model.parameters.admission_ms + np.zeros(len(layout))
    return whole + Cost.of(HOST, overhead=admission_ms), later + 1.0, first_ms + admission_ms


def _decode(cost_model: CostModel, running: Array, context: Array, groups: Array) -> Cost:
    """Price one decode step of ``running`` sequences in ``groups`` micro-batches.

    Each micro-batch passes all stages before its next token, so a step takes at least a full pass of one micro-batch;
    the host serves the micro-batches one after another.
    """
    parameters = cost_model.parameters
    uneven = np.where(groups > 1, 1.0 + parameters.group_imbalance, 1.0)
    share = np.minimum(running / groups * uneven, running)
    step = decode_pass(cost_model.model, share, context)
    cost = forward_pass_cost(cost_model, step, prefills=0.0)
    waiting = np.where(groups > 1, parameters.sequence_us * 1e-3 * (running - share), 0.0)
    others = np.where(groups > 1, parameters.step_ms * (groups - 1.0), 0.0)
    cost = cost + Cost.of(HOST, overhead=np.maximum(waiting, 0.0) + others)
    return cost + Cost.of(HOST, overhead=waiting_for_turns(cost_model, groups, cost.total_ms))


def put_off(
    layout: DeploymentArrays, running: Array, input_len: Array, output_len: Array, chunks: Array
) -> tuple[Array, Array]:
    """Return what a static batch prefilled in several chunks decodes meanwhile: tokens per request, and the share of one more step.

    Tokens that requests prefilled early decode take places of prompt tokens. A request that is k of the n chunks ahead has
    decoded min(k, steps) tokens by the end of the prefill. Where the last chunk has not as many places left, the prompt
    tokens that were put off take a step of their own: in full once a token of every sequence does not find room.
    """
    steps, ahead = np.maximum(output_len - 1.0, 1.0), np.maximum(chunks - 1.0, 0.0)
    early = np.where(steps >= ahead, ahead / 2.0, steps - steps**2 / (2.0 * np.maximum(ahead, 1e-9)))
    per_chunk = np.minimum(layout.max_num_batched_tokens, layout.max_num_seqs * input_len)
    opening = np.minimum(np.minimum(running, AT_ONCE) * input_len, per_chunk)
    left = ahead * per_chunk - np.maximum(running * input_len - opening, 0.0)
    another = np.clip((early * running - left) / running, 0.0, 1.0)
    return early, np.where((ahead > 0) & (layout.pp == 1), another, 0.0)


def static_batch_times(cost_model: CostModel, batch: Array, input_len: Array, output_len: Array) -> PhaseTimes:
    """Time ``batch`` requests of each replica, which all arrive at t=0; arrays of shape (n,).

    Above what the KV cache holds, requests run in waves.
    """
    layout, memory, cuts = cost_model.layout, cost_model.memory, cost_model.timing.cuts_prompts
    fitting = np.maximum(max_concurrency(cost_model.model, memory, layout, input_len + output_len), 1.0)
    running = np.minimum(np.minimum(batch, layout.max_num_seqs), fitting)
    prefill, chunks, first_ms = (_prefill if cuts else _whole_prefill)(cost_model, batch, input_len)
    on_prefill, on_decode = cost_model.factors
    prefill, first_ms = prefill * on_prefill, first_ms * on_prefill
    prefill_ms = prefill.total_ms
    context = input_len + output_len / 2.0
    groups = np.minimum(np.minimum(layout.pp, chunks), running)
    groups = np.where(chunks > 1, groups, 1.0)
    decode = _decode(cost_model, running, context, groups) * on_decode
    waves = np.floor(batch / running)
    left = batch - waves * running
    decode_ms = decode.total_ms
    steps = np.maximum(output_len - 1.0, 0.0)
    if cuts:
        wave_ms, wave_chunks = prefill_ms, chunks
        short = np.flatnonzero(running < batch)
        if len(short):
            one, its_chunks, _ = _prefill(cost_model.take(short), running[short], input_len[short])
            wave_chunks = replaced(chunks, short, its_chunks)
            wave_ms = replaced(prefill_ms, short, one.total_ms * np.broadcast_to(on_prefill, batch.shape)[short])
        # The tokens that were put off take as long as others; the last requests still have all their steps to go.
        early, another = put_off(layout, running, input_len, output_len, wave_chunks)
        mixed_ms = (early * wave_ms / input_len + another * decode_ms) / np.maximum(steps, 1.0)
        decode = decode + Cost.of(MIXED, compute=mixed_ms)
        decode_ms = decode.total_ms
    total = waves * decode_ms
    rest = left > 0
    if np.any(rest):
        last = _decode(cost_model.take(rest), left[rest], context[rest], np.minimum(groups[rest], left[rest]))
        total = total.copy()
        total[..., rest] += last.total_ms * np.broadcast_to(on_decode, rest.shape)[rest]
    e2e_ms = prefill_ms + steps * total
    # Wave i waits for i earlier ones, and so does the part of a wave that is left over at the end.
    waves_waited = (running * waves * (waves - 1.0) / 2.0 + left * waves) / batch
    waiting = waves_waited * steps * decode_ms
    ttft_ms = first_ms + waiting
    return PhaseTimes(
        prefill_ms=prefill_ms,
        ttft_ms=ttft_ms,
        tpot_ms=np.where(steps > 0, total, 0.0),
        e2e_ms=e2e_ms,
        output_tok_s=layout.dp * batch * output_len / e2e_ms * 1e3,
        running=running,
        prefill=prefill,
        decode=decode,
    )
