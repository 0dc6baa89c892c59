"""An engine's prefix cache written slowly and plainly, as a check of the compiled one: lists of tokens, dicts, one thing after the other.

The rules are those of vLLM's V1 engine (v1/core/block_pool.py, kv_cache_manager.py, 0.24 and later).
"""

from __future__ import annotations

import math
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

    def take(self, job, new, step):
        table = self.tables.setdefault(job.number, [])
        while len(table) < math.ceil((job.computed + new) / BLOCK):
            table.append(self.blocks.new())
        known = job.prompt + len(job.tokens)
        computed = job.computed + new
        super().take(job, new, step)
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


def simulate(jobs, engines, *, arrivals, after, wait_s, route):
    """All jobs through the engines; those with ``after`` come when that one was answered. Returns when each came, and where to."""
    due = {number: arrivals[number] for number in range(len(jobs)) if after[number] < 0}
    came, places = {}, {}
    while due or any(engine.flight for engine in engines):
        coming = min(due, key=lambda number: (due[number], number), default=None)
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
            due |= {number: now + wait_s[number] for number in range(len(jobs)) if after[number] == job.number}
        engines[first].work(now)
    return came, places
