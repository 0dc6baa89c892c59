"""The scheduler written slowly and plainly, as a check of the compiled loop: objects, lists, one thing after the other."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

BLOCK = 16


@dataclass
class Job:
    number: int
    prompt: int
    wanted: int
    cached: int
    computed: int = 0
    scheduled: int = 0
    tokens: list = field(default_factory=list)
    blocks: int = 0

    def target(self, ahead):
        return self.prompt + (self.scheduled if ahead else len(self.tokens))


class Engine:
    def __init__(self, *, budget, cap, pool, depth, ahead, stages, time, turn_ms=0.0, mixes=True, reserves=False):
        self.turn_s, self.turn_free = 1e-3 * turn_ms, 0.0
        self.mixes, self.reserves = mixes, reserves
        self.budget, self.cap, self.free, self.depth, self.ahead = budget, cap, pool, depth, ahead
        self.time, self.shares, self.stage_free = time, stages, [0.0] * len(stages)
        self.pool = pool
        self.waiting, self.running, self.flight, self.steps = deque(), [], deque(), []
        self.preempted = []
        self.now, self.away = 0.0, set()
        """Jobs that hold their places and wait for what is loaded."""

    @property
    def wake(self):
        return self.flight[0][0] if self.flight else math.inf

    def preempt(self, job):
        self.running.remove(job)
        self.free += job.blocks
        job.blocks = job.computed = 0
        self.preempted.append(job.number)
        if job.scheduled < job.wanted:
            self.waiting.appendleft(job)

    def finish(self, now):
        """The oldest step's tokens come; returns the jobs that are done."""
        _, jobs = self.flight.popleft()
        done = []
        for job in jobs:
            job.tokens.append(now)
            if len(job.tokens) == job.wanted:
                self.free += job.blocks
                job.blocks = 0
                if job in self.running:
                    self.running.remove(job)
                done.append(job)
        return done

    def room(self, job):
        """Blocks that a job that waits has to find free."""
        return math.ceil((job.prompt + job.wanted if self.reserves else job.target(self.ahead)) / BLOCK)

    def prompts_alone(self):
        """Whether the next step is of prompts alone."""
        if self.mixes:
            return False
        if any(job.target(self.ahead) - job.computed > (1 if job.scheduled else 0) for job in self.running):
            return True
        return bool(self.waiting) and len(self.running) < self.cap and self.room(self.waiting[0]) <= self.free

    def admitted(self, job):
        if self.room(job) > self.free:
            return False
        job.computed = 0 if job.scheduled else job.cached
        return True

    def take(self, job, new, step, room=0):
        before = job.computed
        needed = max(math.ceil((before + new) / BLOCK), room) - job.blocks
        self.free -= max(needed, 0)
        job.blocks += max(needed, 0)
        job.computed += new
        step["left"] -= new
        last = job.computed == job.prompt + job.scheduled
        if last and new == 1 and job.scheduled:
            step["decodes"] += 1
            step["context"] += job.computed
        else:
            step["prefill"] += new
            step["pairs"] += sum(range(before + 1, before + new + 1))
        if last:
            job.scheduled += 1
            step["jobs"].append(job)

    def schedule(self, now):
        self.now = now
        step = {"left": self.budget, "decodes": 0, "prefill": 0, "context": 0, "pairs": 0, "jobs": []}
        preempted_before = len(self.preempted)
        alone = self.prompts_alone()
        for job in list(self.running):
            if job not in self.running or step["left"] == 0:
                break
            new = min(job.target(self.ahead) - job.computed, step["left"])
            idle = new <= 0 or job.scheduled == job.wanted or (alone and new == 1 and job.scheduled)
            if idle or job.number in self.away:
                continue
            while math.ceil((job.computed + new) / BLOCK) - job.blocks > self.free:
                victim = self.running[-1]
                self.preempt(victim)
                if victim is job:
                    break
            if job not in self.running:
                break
            self.take(job, new, step)
        while (self.mixes or alone) and (
            len(self.preempted) == preempted_before and step["left"] and self.waiting and len(self.running) < self.cap
        ):
            job = self.waiting[0]
            room = self.room(job)
            if not self.admitted(job):
                break
            self.waiting.popleft()
            self.running.append(job)
            away = job.number in self.away
            given = {} if self.mixes and not self.reserves and not away else {"room": room}
            new = 0 if away else min(job.target(self.ahead) - job.computed, step["left"])
            self.take(job, new, step, **given)
        if step["left"] == self.budget:
            return False
        took = self.time(
            tokens=self.budget - step["left"],
            sequences=len(step["jobs"]),
            decodes=step["decodes"],
            context=step["context"],
            pairs=step["pairs"],
        )
        at = max(now, self.stage_free[0], self.turn_free)
        self.turn_free = at + self.turn_s
        for stage, share in enumerate(self.shares):
            at = max(at, self.stage_free[stage]) + took * share
            self.stage_free[stage] = at
        self.flight.append((at, step["jobs"]))
        self.steps.append(
            (
                now,
                at,
                step["prefill"],
                step["decodes"],
                len(step["jobs"]),
                len(self.running),
                len(self.waiting),
                self.pool - self.free,
            )
        )
        return True

    def work(self, now):
        while len(self.flight) < self.depth and self.schedule(now):
            pass


def simulate(jobs, arrivals, engines, *, router="round_robin", horizon=math.inf):
    """All jobs through the engines; ``arrivals``: times of the first ones, completions bring the others.

    Returns the arrival times of those that came and the engine each went to.
    """
    arrivals, came, places = list(arrivals), 0, []
    while True:
        due = arrivals[came] if came < len(arrivals) else math.inf
        first = min(range(len(engines)), key=lambda i: engines[i].wake)
        if due == engines[first].wake == math.inf:
            return arrivals[:came], places
        if due <= engines[first].wake:
            if router == "round_robin":
                place = came % len(engines)
            else:
                place = min(range(len(engines)), key=lambda i: 4 * len(engines[i].waiting) + len(engines[i].running))
            engines[place].waiting.append(jobs[came])
            places.append(place)
            came += 1
            if not engines[place].flight:
                engines[place].work(due)
            continue
        now = engines[first].wake
        for _ in engines[first].finish(now):
            if len(arrivals) < len(jobs) and now < horizon:
                arrivals.append(now)
        engines[first].work(now)
