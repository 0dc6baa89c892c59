"""The scheduler's loop, compiled: continuous batching as vLLM's V1 engine does it (v1/core/sched/scheduler.py).

Importing this module imports numba; nothing but a simulation does.

Every step has a budget of tokens. Running sequences come first, in the order of their admission: each decodes one token or goes
on with its prompt. What is left of the budget goes to those that wait, first come first served, cut into chunks; one is admitted when
the cap on running sequences and the free KV blocks allow its whole prompt. A running sequence that finds no block preempts the
latest one, which waits at the head of the queue and is computed again; with priorities both go by them
(``advisor.simulator.waiting_queue``). With prefix caches (``advisor.simulator.block_cache``) a request begins behind the blocks of it that are there.

The engine keeps ``depth`` steps in flight. With ``ahead`` it schedules the next step before it has seen the tokens of this one
(asynchronous scheduling), so a sequence can be in both; else a sequence's next token waits for its last, and steps in flight fill the
stages of a pipeline with different sequences. Two facts of other engines change this: where prompts and decodes do not mix (SGLang),
waiting prompts that fit are computed first, in steps of their own, with blocks for the whole prompt; where outputs are reserved
(TensorRT-LLM), a sequence is admitted with all its blocks and never preempted. Recipes have the scheduler look for new requests every so
many steps only (SGLang), or hold prompts back until they fill a step (TensorRT-LLM), and a front end delivers tokens one by one.
While all the steps allowed are in flight the engine waits for the oldest and looks at no arrivals.

With drafts a decoding sequence takes 1 + k tokens of the budget and blocks for them, and yields those accepted and one more. A step
scheduled ahead begins where the accepted ones end; vLLM's worker puts that right on the GPU (v1/worker/gpu_model_runner.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from advisor.simulator.adapter_slots import adapters_s, admit, brought_forward, leave
from advisor.simulator.block_cache import BLOCK, hit_blocks, release, sit, store, take
from advisor.simulator.compilation import compiled
from advisor.simulator.draft_acceptance import drafts_ms, verify, withdraw_drafts
from advisor.simulator.follow_ups import answered, came, coming_next
from advisor.simulator.lockstep import join, log_step
from advisor.simulator.loop_state import ARRIVED, COMPLETED, GONE, KNOWN, MOST, PREEMPTIONS, STEPS, TOKENS, TURN
from advisor.simulator.loop_totals import gap_bin, tally
from advisor.simulator.routing import route
from advisor.simulator.step_duration import seen_within, step_ms
from advisor.simulator.tier_cache import held_up, load, next_ready, offload, tier_hits
from advisor.simulator.waiting_queue import close_gap, dequeue, enqueue, level_of, requeue, victim, withdraw


@compiled
def serve(
    arrival: Any,
    inputs: Any,
    outputs: Any,
    cached: Any,
    more: bool,
    horizon_s: float,
    enough: int,
    router: int,
    ahead: bool,
    budget: int,
    pool: int,
    window: float,
    mixes: bool,
    reserves: bool,
    poll: int,
    batch_wait: int,
    token_s: float,
    by_tokens: Any,
    by_sequences: Any,
    by_context: Any,
    constants: Any,
    shares: Any,
    by_group: Any,
    drafts: Any,
    delays_s: Any,
    gaps: Any,
    bins: Any,
    bin_s: float,
    log: Any,
    state: Any,
    cache: Any,
    tiers: Any,
    later: Any,
    session: Any,
    homes: Any,
    levels: Any,
    loras: Any,
) -> None:
    """Serve n requests, or go on with it; changes all but what says what they are and how long steps take.

    Args:
        arrival: seconds, ascending, shape (n,); in a closed loop the first ones are given and the others filled in, as each
            completion lets the next one arrive.
        inputs: prompt tokens, (n,).
        outputs: tokens to generate, at least 1, (n,).
        cached: prompt tokens found in the prefix cache, fewer than ``inputs``, (n,); with prefix caches filled in.
        more: whether others come after these; then the loop stops where it would have to know them.
        horizon_s: none is let in by a completion at or after this.
        enough: the loop stops when so many are completed.
        router: see ``advisor.simulator.routing``.
        ahead: whether a sequence may be scheduled before its last token is seen.
        budget: tokens of a step.
        pool: KV blocks of one replica.
        window: of windowed layers, tokens; infinite without.
        mixes: whether prompts and decodes share steps; else steps with prompts are theirs alone, and come first.
        reserves: whether a request is admitted with blocks for all of its prompt and output.
        poll: steps without prompts after which the scheduler looks for new requests.
        batch_wait: steps for which new prompts that fill no step are held back while others decode.
        token_s: of the front end of a replica to deliver one token, one after the other.
        by_tokens: see ``advisor.simulator.step_table.StepTimes``, as the next three.
        by_sequences: see there.
        by_context: see there.
        constants: see there.
        shares: share of a pass that each pipeline stage takes, (stages,).
        by_group: of what ranks that go in step share, see there.
        drafts: ``advisor.simulator.draft_table.Drafts``; None where nothing drafts, for which numba compiles a loop without.
        delays_s: from arrival to the scheduler, and from the end of a step to the client.
        gaps: histogram of gaps between tokens.
        bins: by time, see ``advisor.simulator.loop_totals.BIN_COLUMNS``; the last row takes what comes after the others.
        bin_s: width of a bin.
        log: the first steps, see ``advisor.simulator.loop_totals.STEP_COLUMNS``.
        state: where the loop stands; ``State.fresh`` to begin with.
        cache: ``advisor.simulator.block_cache.BlockCache``; of no replica without prefix caches.
        tiers: ``advisor.simulator.tier_cache.TierCache``; of no tier where blocks are on the GPUs alone.
        later: ``advisor.simulator.follow_ups.FollowUps``; of no request where all come when they come.
        session: of each request, none where they have none,
        homes: and the replica of each, see ``advisor.simulator.routing.route``.
        levels: of priority, 0 first, of each request; none where they are served as they come.
        loras: ``advisor.simulator.adapter_slots.AdapterSlots``; None without adapters, for which numba compiles a loop without.

    """
    n, stages = len(inputs), len(shares)
    first_s, last_s, longest_s = state.first_s, state.last_s, state.longest_s
    preempted, place, computed, made, shown = state.preempted, state.place, state.computed, state.made, state.shown
    held, runs, link, head, tail = state.held, state.runs, state.link, state.head, state.tail
    waiting, running, count, free = state.waiting, state.running, state.runners, state.free
    flight, yields, ends, oldest, flying = state.flight, state.yields, state.ends, state.oldest, state.flying
    emitted, gone, beyond = state.emitted, state.counts[GONE], 0
    if drafts is not None:
        beyond = drafts.draft_len + drafts.lookahead
    stage_free, turn_free, wake, counts = state.stage_free, state.turn_free, state.wake, state.counts
    tables = by_tokens, by_sequences, by_context, constants
    replicas, cap, depth = running.shape[0], running.shape[1], ends.shape[1]
    arrived, completed, tokens_out, steps = counts[ARRIVED], counts[COMPLETED], counts[TOKENS], counts[STEPS]
    preemptions, most, turn, known = counts[PREEMPTIONS], counts[MOST], counts[TURN], counts[KNOWN]
    seen, unpolled, held_back = state.seen, state.unpolled, state.held_back
    waiting_tokens, delivered_s = state.waiting_tokens, state.delivered_s
    end = state.end_s[0]
    caching, following = len(cache.seated) > 0, len(later.first) > 0
    together, tiered = len(state.lockstep.newest) > 0, caching and len(tiers.load_s) > 0
    stored, granted, guessed = cache.stored, np.zeros(cap, np.int64), np.zeros(cap, np.int64)

    while completed < enough and not (more and arrived == known):
        r = 0
        for other in range(1, replicas):
            if wake[other] < wake[r]:
                r = other
        now = wake[r]
        coming = -1
        if following:
            coming = coming_next(later)
        elif arrived < known:
            coming = arrived
        if coming >= 0 and arrival[coming] + delays_s[0] <= now:
            now = arrival[coming] + delays_s[0]
            r = route(router, turn, coming, inputs[coming], waiting, count, cache, session, homes)
            turn = (turn + 1) % replicas
            place[coming] = r
            enqueue(head, tail, link, levels, r, coming)
            waiting[r] += 1
            waiting_tokens[r] += inputs[coming]
            arrived += 1
            if following:
                came(later, arrival)
            if flying[r] > 0:
                continue  # the engine waits for a step
        elif now == np.inf:
            break

        if flying[r] > 0:  # the oldest step has ended
            slot = oldest[r]
            if together:
                log_step(state.lockstep, r, slot, now, log)
            ended = False
            last_gap, last_bin = -1.0, 0
            new_tokens = yields[r, slot]
            if drafts is not None:
                new_tokens = emitted[r, slot, : yields[r, slot]].sum()
            delivered_s[r] = max(delivered_s[r], now) + token_s * new_tokens
            tokens_out += new_tokens
            out = delivered_s[r] + delays_s[1]
            for i in range(yields[r, slot]):
                q = flight[r, slot, i]
                shown[q] += 1
                if drafts is not None:
                    shown[q] += emitted[r, slot, i] - 1
                if shown[q] == 1:
                    first_s[q] = out
                else:
                    gap = out - last_s[q]
                    if gap != last_gap:
                        last_gap = gap
                        last_bin = gap_bin(gap)
                    gaps[last_bin] += 1
                    longest_s[q] = max(longest_s[q], gap)
                last_s[q] = out
                if caching and ahead and runs[q] and (inputs[q] + shown[q] - 1) // BLOCK > stored[q]:
                    store(cache, r, q, (inputs[q] + shown[q] - 1) // BLOCK)
                if shown[q] == outputs[q]:
                    completed += 1
                    ended = True
                    if not caching:
                        free[r] += held[q]
                    elif held[q] > 0:  # else its last token came after it was preempted
                        free[r] += release(cache, r, q, held[q])
                    held[q] = 0
                    if following:
                        answered(later, arrival, q, out, horizon_s)
                    elif known < n and out < horizon_s:
                        arrival[known] = max(out, arrival[known - 1]) if token_s > 0.0 else out
                        known += 1
            if ended:
                kept = 0
                for i in range(count[r]):
                    q = running[r, i]
                    if shown[q] < outputs[q]:
                        running[r, kept] = q
                        kept += 1
                    else:
                        runs[q] = False
                        if loras is not None:
                            leave(loras, r, gone + q)
                count[r] = kept
            oldest[r] = (slot + 1) % depth
            flying[r] -= 1
            end = max(end, out - delays_s[1])

        while flying[r] < depth:
            left = budget
            prefill = decodes = sequences = emitting = 0
            context = pairs = windowed = loads_s = 0.0
            slot = (oldest[r] + flying[r]) % depth
            any_preempted = False
            alone = False
            if poll <= 1 or unpolled[r] >= poll or (count[r] == 0 and seen[r] == 0):
                seen[r] = waiting[r]
                unpolled[r] = 0
            waits = held_back[r] < batch_wait and seen[r] > 0 and count[r] > 0 and waiting_tokens[r] + count[r] < budget
            if not mixes:
                for i in range(count[r]):
                    q = running[r, i]
                    if inputs[q] + (made[q] if ahead else shown[q]) - computed[q] > (1 if made[q] > 0 else 0):
                        alone = True
                q = head[r, 0]
                if seen[r] > 0 and not waits and count[r] < cap:
                    whole = inputs[q] + (outputs[q] + beyond if reserves else (made[q] if ahead else shown[q]))
                    hits = idle = 0
                    if caching:
                        hits, idle = hit_blocks(cache, r, q, inputs[q] + (made[q] if ahead else shown[q]))
                    if (whole + BLOCK - 1) // BLOCK - hits + idle <= free[r]:
                        alone = True
            i = 0
            while i < count[r] and left > 0:
                q = running[r, i]
                target = inputs[q] + (made[q] if ahead else shown[q])
                new = min(target - computed[q], left)
                granted[i] = guessed[i] = 0
                idles = new <= 0 or made[q] >= outputs[q] or (alone and new == 1 and made[q] > 0)
                if idles or (tiered and tiers.ready_s[q] > now):
                    i += 1
                    continue
                decoding = new == 1 and made[q] > 0 and computed[q] + 1 == inputs[q] + made[q]
                drafted = spare = 0
                if drafts is not None:
                    drafted = min(drafts.draft_len, left - 1) if decoding else 0
                    spare = drafted + drafts.lookahead if decoding else 0
                need = (computed[q] + new + spare + BLOCK - 1) // BLOCK - held[q]
                while need > free[r]:
                    at_place = victim(running, count[r], levels, arrival, r)
                    late = running[r, at_place]
                    count[r] -= 1
                    if at_place < i:  # by priority: it gives back what it has of this step
                        i -= 1
                        back, yielding = granted[at_place], sequences
                        if drafts is not None:
                            emitting -= withdraw_drafts(
                                flight[r, slot], emitted[r, slot], sequences, late, made, computed
                            )
                            left += guessed[at_place]
                        sequences = withdraw(flight[r, slot], sequences, late)
                        made[late] -= yielding - sequences
                        left += back
                        if sequences < yielding and back == 1 and made[late] > 0:
                            decodes -= 1
                            context -= computed[late]
                        else:
                            prefill -= back
                            pairs -= back * float(computed[late] - back) + back * (back + 1.0) / 2.0
                            windowed -= seen_within(computed[late] - back, back, window)
                    close_gap(running[r], count[r], at_place)
                    close_gap(granted, count[r], at_place)
                    close_gap(guessed, count[r], at_place)
                    runs[late] = False
                    if loras is not None:
                        leave(loras, r, gone + late)
                    free[r] += release(cache, r, late, held[late]) if caching else held[late]
                    held[late] = 0
                    computed[late] = 0
                    any_preempted = True
                    preemptions += 1
                    preempted[late] += 1
                    bins[min(int(now / bin_s), len(bins) - 1), 5] += 1
                    if made[late] < outputs[late]:  # else its last token is on its way
                        requeue(head, tail, link, levels, arrival, r, late)
                        waiting[r] += 1
                        seen[r] += 1
                        waiting_tokens[r] += inputs[late]
                    if late == q:
                        break
                if not runs[q]:
                    break
                if need > 0:
                    if caching:
                        take(cache, r, q, held[q], need)
                    free[r] -= need
                    held[q] += need
                start = computed[q]
                computed[q] += new
                if caching and min(computed[q], inputs[q] + shown[q]) // BLOCK > stored[q]:
                    store(cache, r, q, min(computed[q], inputs[q] + shown[q]) // BLOCK)
                if tiered and start < inputs[q]:
                    offload(tiers, cache, r, q, min(computed[q], inputs[q]) // BLOCK, now)
                left -= new + drafted
                done = computed[q] == inputs[q] + made[q]
                if decoding:
                    decodes += 1
                    context += computed[q]
                else:
                    prefill += new
                    pairs += new * float(start) + new * (new + 1.0) / 2.0
                    windowed += seen_within(start, new, window)
                if done:
                    if drafts is not None:
                        emitted[r, slot, sequences] = verify(drafts, gone, q, drafted, outputs[q], made, computed)
                        emitting += emitted[r, slot, sequences] - 1
                    made[q] += 1
                    flight[r, slot, sequences] = q
                    sequences += 1
                granted[i], guessed[i] = new, drafted
                i += 1
            while (mixes or alone) and not any_preempted and not waits and left > 0 and seen[r] > 0 and count[r] < cap:
                level = level_of(head, r)
                if loras is not None:  # noqa: SIM102  numba drops what this alone decides
                    if not brought_forward(loras, head, tail, link, r, level, gone, seen[r]):
                        break
                q = head[r, level]
                whole = inputs[q] + (made[q] if ahead else shown[q])
                begin = cached[q] if made[q] == 0 else 0
                hits = idle = 0
                if caching:
                    hits, idle = hit_blocks(cache, r, q, whole)
                    begin = hits * BLOCK
                room = ((inputs[q] + outputs[q] + beyond if reserves else whole) + BLOCK - 1) // BLOCK
                if room - hits + idle > free[r]:
                    break
                new = min(whole - begin, left)
                below, ready = 0, now
                if tiered:
                    below, ready = tier_hits(tiers, cache, r, q, hits, whole, now), held_up(cache, r, hits, now)
                    begin += below * BLOCK
                    new = 0 if below > 0 or ready > now else new
                need = (begin + new + BLOCK - 1) // BLOCK if mixes and not reserves and new > 0 else room
                if caching:
                    sit(cache, r, q, hits)
                    take(cache, r, q, hits, need - hits)
                    store(cache, r, q, min(begin + new, inputs[q] + shown[q]) // BLOCK)
                    if tiered:
                        load(tiers, cache, r, q, hits, below, inputs[q] // BLOCK, ready, now, preempted[q] == 0)
                        offload(tiers, cache, r, q, min(begin + new, inputs[q]) // BLOCK, now)
                    if preempted[q] == 0:
                        cached[q] = begin
                free[r] -= need - hits + idle
                held[q] = need
                computed[q] = begin + new
                left -= new
                if new == 1 and made[q] > 0 and computed[q] == inputs[q] + made[q]:  # all else of it is still there
                    decodes += 1
                    context += computed[q]
                else:
                    prefill += new
                    pairs += new * float(begin) + new * (new + 1.0) / 2.0
                    windowed += seen_within(begin, new, window)
                dequeue(head, tail, link, r, level)
                if loras is not None:
                    loads_s += admit(loras, r, gone + q)
                waiting[r] -= 1
                seen[r] -= 1
                waiting_tokens[r] -= inputs[q]
                held_back[r] = 0
                running[r, count[r]] = q
                count[r] += 1
                runs[q] = True
                if computed[q] == inputs[q] + made[q]:
                    if drafts is not None:
                        emitted[r, slot, sequences] = 1
                    made[q] += 1
                    flight[r, slot, sequences] = q
                    sequences += 1
            if left == budget and any_preempted and flying[r] == 0 and len(levels) > 0:
                continue  # the first that ran gave way by priority, and those behind it have not had their turn
            if left == budget:
                break
            unpolled[r] = poll if prefill > 0 else unpolled[r] + 1
            held_back[r] += waits
            took = 1e-3 * step_ms(*tables, budget - left, sequences, decodes, context, pairs, windowed, prefill > 0)
            if drafts is not None:
                took += 1e-3 * drafts_ms(drafts, budget - left, decodes, sequences)
            if loras is not None:
                took += loads_s + adapters_s(loras, r, budget - left)
            begin_s = max(now, stage_free[r, 0], turn_free[r])
            turn_free[r] = begin_s + 1e-3 * constants.turn_ms
            at = begin_s
            for stage in range(stages):
                at = max(at, stage_free[r, stage]) + took * shares[stage]
                stage_free[r, stage] = at
            ends[r, slot] = at
            if together:
                begin_s = join(state, r, slot, now, took, budget - left, by_group, constants.captured_tokens)
                state.lockstep.row[r, slot] = steps
                at = ends[r, slot]
                took = at - begin_s
            yields[r, slot] = sequences
            used = pool - free[r]
            most = max(most, used)
            if steps < len(log):
                row = log[steps]
                row[0], row[1], row[2], row[3], row[4] = r, now, begin_s, at, prefill
                row[5], row[6], row[7], row[8], row[9] = decodes, sequences, count[r], waiting[r], used
            b = min(int(begin_s / bin_s), len(bins) - 1)
            busy = took * shares[0]
            tally(bins[b], busy, count[r], waiting[r], used, sequences + emitting)
            steps += 1
            flying[r] += 1
        wake[r] = ends[r, oldest[r]] if flying[r] > 0 else np.inf
        if tiered and flying[r] == 0:
            wake[r] = next_ready(tiers, running[r], count[r], now)

    counts[ARRIVED], counts[COMPLETED], counts[TOKENS], counts[STEPS] = arrived, completed, tokens_out, steps
    counts[PREEMPTIONS], counts[MOST], counts[TURN], counts[KNOWN] = preemptions, most, turn, known
    state.end_s[0] = end
