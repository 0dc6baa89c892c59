"""An engine's prefix cache written slowly and plainly, as a check of the compiled one: lists of tokens, dicts, one thing after the other.

The rules are those of vLLM's V1 engine (v1/core/block_pool.py, kv_cache_manager.py, 0.24 and later).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from tests.advisor.serving_reference import BLOCK, Engine


@dataclass
class Block:
    number: int
    users: int = 0
    key: tuple | None = None


class Pool:
    def __init__(self, blocks):
        self.free = [Block(number) for number in range(blocks)]
        self.by_key = {}

    def longest_hit(self, tokens):
        """The blocks of the longest prefix that is cached; the last token is always computed."""
        hit = []
        for number in range((len(tokens) - 1) // BLOCK):
            same = self.by_key.get(tuple(tokens[: (number + 1) * BLOCK]))
            if not same:
                break
            hit.append(next(iter(same.values())))
        return hit

    def touch(self, block):
        if block.users == 0:
            self.free.remove(block)
        block.users += 1

    def new(self):
        block = self.free.pop(0)
        if block.key is not None:
            del self.by_key[block.key][block.number]
            block.key = None
        block.users = 1
        return block

    def store(self, block, key):
        if block.key is None:
            block.key = key
            self.by_key.setdefault(key, {})[block.number] = block

    def release(self, blocks):
        for block in blocks:
            block.users -= 1
        freed = [block for block in reversed(blocks) if block.users == 0]
        plain, hashed = ([block for block in freed if (block.key is not None) == has] for has in (False, True))
        self.free = plain + self.free + hashed


class CachingEngine(Engine):
    """``Engine`` whose jobs have ``said``: the tokens of their prompts and of their answers."""

    def __init__(self, *, pool, **options):
        super().__init__(pool=pool, **options)
        self.blocks = Pool(pool)
        self.tables = {}
        self.hits = {}

    def give_back(self, job):
        self.blocks.release(self.tables.pop(job.number, []))
        self.free = len(self.blocks.free)

    def preempt(self, job):
        super().preempt(job)
        self.give_back(job)

    def finish(self, now):
        _, jobs = self.flight.popleft()
        done = []
        for job in jobs:
            job.tokens.append(now)
            if self.ahead and job in self.running:
                self.store(job, job.prompt + len(job.tokens) - 1)
            if len(job.tokens) == job.wanted:
                self.give_back(job)
                job.blocks = 0
                if job in self.running:
                    self.running.remove(job)
                done.append(job)
        return done

    def store(self, job, tokens):
        for number in range(tokens // BLOCK):
            self.blocks.store(self.tables[job.number][number], tuple(job.said[: (number + 1) * BLOCK]))

    def take(self, job, new, step, room=0):
        table = self.tables.setdefault(job.number, [])
        while len(table) < max(math.ceil((job.computed + new) / BLOCK), room):
            table.append(self.blocks.new())
        known = job.prompt + len(job.tokens)
        computed = job.computed + new
        super().take(job, new, step, room)
        self.store(job, min(computed, known))
        self.free = len(self.blocks.free)

    def admitted(self, job):
        """Whether the head of the queue fits; then it holds what was found of it."""
        target = job.target(self.ahead)
        hit = self.blocks.longest_hit(job.said[:target])
        held = sum(block.users > 0 for block in hit)
        if math.ceil(target / BLOCK) - held > len(self.blocks.free):
            return False
        for block in hit:
            self.blocks.touch(block)
        self.tables[job.number] = list(hit)
        job.blocks = len(hit)
        job.computed = len(hit) * BLOCK
        if job.number not in self.preempted:
            self.hits[job.number] = job.computed
        return True


class Shelf(OrderedDict):
    """Blocks of one tier by what they say, those used longest ago first, with when each can be read."""

    def __init__(self, tier, above):
        super().__init__()
        self.room, self.backlog_s, self.read_free, self.write_free = tier.blocks, tier.write_s * above, 0.0, 0.0

    def put(self, key, written):
        if len(self) == self.room:
            self.popitem(last=False)
        self[key] = written


class TieredEngine(CachingEngine):
    """``CachingEngine`` above ``tiers``: (settings, shelf) pairs, the fastest first; the first may be CPU memory, which all goes through."""

    def __init__(self, *, tiers, **options):
        super().__init__(**options)
        self.tiers = tiers
        self.ready, self.comes, self.offered, self.loaded = {}, {}, {}, {}

    @property
    def wake(self):
        if self.flight:
            return self.flight[0][0]
        return min(
            (self.ready[job.number] for job in self.running if self.ready[job.number] > self.now), default=math.inf
        )

    def finish(self, now):
        return super().finish(now) if self.flight else []

    def schedule(self, now):
        self.away = {number for number, ready in self.ready.items() if ready > now}
        return super().schedule(now)

    def prefixes(self, job, begin, end):
        return [tuple(job.said[: (number + 1) * BLOCK]) for number in range(begin, end)]

    def used(self, job, blocks):
        for _, shelf in self.tiers:
            for key in reversed(self.prefixes(job, 0, blocks)):
                if key in shelf:
                    shelf.move_to_end(key)

    def admitted(self, job):
        if not super().admitted(job):
            return False
        now, hits, first = self.now, len(self.tables[job.number]), job.number not in self.preempted
        ready = max([now, *(self.comes.get(block.number, 0.0) for block in self.tables[job.number])])
        sources = []
        for key in self.prefixes(job, hits, (job.target(self.ahead) - 1) // BLOCK):
            having = [t for t, (_, shelf) in enumerate(self.tiers) if shelf.get(key, math.inf) <= now]
            if not having:
                break
            sources.append(having[0])
        keys = self.prefixes(job, hits, hits + len(sources))
        for t in reversed(range(len(self.tiers))):
            tier, shelf = self.tiers[t]
            staged = t == 0 and tier.name == "cpu"
            number = len(sources) if staged else sources.count(t)
            if number:
                shelf.read_free = max(shelf.read_free, now) + number * tier.load_s
                ready = max(shelf.read_free, ready + number * tier.load_s) + tier.latency_s
        while len(self.tables[job.number]) < hits + len(sources):
            self.tables[job.number].append(self.new())
        for key, source, block in zip(keys, sources, self.tables[job.number][hits:], strict=True):
            self.comes[block.number] = ready
            for _, shelf in self.tiers[:source]:
                if key not in shelf:
                    shelf.put(key, ready)
        self.used(job, job.prompt // BLOCK)
        self.ready[job.number] = ready
        self.away |= {job.number} if ready > now else set()
        job.computed += len(sources) * BLOCK
        job.blocks = len(self.tables[job.number])
        self.free = len(self.blocks.free)
        self.store(job, job.computed)
        if sources:
            self.offered[job.number] = max(self.offered.get(job.number, 0), hits + len(sources))
        if first:
            self.hits[job.number] = job.computed
            self.loaded[job.number] = [BLOCK * sources.count(t) for t in range(len(self.tiers))]
        return True

    def new(self):
        block = self.blocks.new()
        self.comes[block.number] = 0.0
        return block

    def take(self, job, new, step, room=0):
        start, before = job.computed, len(self.tables[job.number])
        super().take(job, new, step, room)
        for block in self.tables[job.number][before:]:
            self.comes[block.number] = 0.0
        if start < job.prompt:
            self.offload(job, min(job.computed, job.prompt) // BLOCK)

    def offload(self, job, full):
        wrote, begin = False, self.offered.get(job.number, 0)
        for key in self.prefixes(job, begin, full):
            for tier, shelf in self.tiers:
                if key not in shelf and shelf.write_free <= self.now + shelf.backlog_s:
                    shelf.write_free = max(shelf.write_free, self.now) + tier.write_s
                    shelf.put(key, shelf.write_free)
                    wrote = True
        self.offered[job.number] = max(begin, full)
        if wrote:
            self.used(job, full)


def simulate(jobs, engines, *, arrivals, after, wait_s, route, flight=None):
    """All jobs through the engines; those with ``after`` come when that one was answered. Returns when each came, and where to.

    With ``flight`` so many come at the beginning, and each answer lets in the follower that has been ready longest, else a new one.
    """
    due = {number: arrivals[number] for number in range(len(jobs)) if after[number] < 0}
    new, ready = list(due), {}
    if flight is not None:
        due, new = dict.fromkeys(new[:flight], 0.0), new[flight:]
    came, places = {}, {}
    while due or any(engine.wake < math.inf for engine in engines):
        coming = min(due, key=lambda number: (due[number], 0 if flight else number), default=None)
        first = min(range(len(engines)), key=lambda i: engines[i].wake)
        if coming is not None and due[coming] <= engines[first].wake:
            now = came[coming] = due.pop(coming)
            place = places[coming] = route(coming, engines)
            engines[place].waiting.append(jobs[coming])
            if not engines[place].flight:
                engines[place].work(now)
            continue
        now = engines[first].wake
        for job in engines[first].finish(now):
            followers = {number: now + wait_s[number] for number in range(len(jobs)) if after[number] == job.number}
            if flight is None:
                due |= followers
                continue
            ready |= followers
            able = [number for number in ready if ready[number] <= now]
            if able:
                due[min(able, key=lambda number: (ready[number], number))] = now
            elif new:
                due[new.pop(0)] = now
            ready = {number: at for number, at in ready.items() if number not in due}
        engines[first].work(now)
    return came, places
