"""Requests of several priorities: the compiled queue against a plain one, and what priorities may do and may not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulator.arrivals import Arrivals
from advisor.simulator.class_labels import ClassLabels, TrafficClass
from advisor.simulator.scheduler import Scheduler, serve
from catalog.schema import Slo
from tests.advisor import serving_reference as reference
from tests.advisor.simulator.test_scheduler_loop import linear_times, plain_engines, times_of, traffic


def labelled(label, priorities):
    """So many classes, of which each request is one."""
    classes = tuple(TrafficClass(name=f"c{i}", priority=priority, slo=Slo()) for i, priority in enumerate(priorities))
    return ClassLabels(classes=classes, label=np.asarray(label, dtype=np.int64))


class PriorityQueue(list):
    """What waits, kept in the order of priority and arrival."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def append(self, job):
        super().append(job)
        self.sort(key=self.key)

    appendleft = append

    def popleft(self):
        return self.pop(0)


class PriorityEngine(reference.Engine):
    """vLLM's scheduler with ``SchedulingPolicy.PRIORITY``, as its source reads: the parts of a step are kept and taken back."""

    def __init__(self, *, key, **given_):
        super().__init__(**given_)
        self.key = key
        self.waiting = PriorityQueue(key)

    def schedule(self, now):
        parts, before = {}, len(self.preempted)
        left, index = self.budget, 0
        while index < len(self.running) and left > 0:
            job = self.running[index]
            new = min(job.target(self.ahead) - job.computed, left)
            if new <= 0 or job.scheduled == job.wanted:
                index += 1
                continue
            while math.ceil((job.computed + new) / reference.BLOCK) - job.blocks > self.free:
                victim = max(self.running, key=self.key)
                if victim in parts:
                    _, had, last = parts.pop(victim)
                    left += had
                    victim.scheduled -= last
                if self.running.index(victim) < index:
                    index -= 1
                self.preempt(victim)
                if victim is job:
                    break
            if job not in self.running:
                break
            left -= self.part(job, new, parts)
            index += 1
        while len(self.preempted) == before and left and self.waiting and len(self.running) < self.cap:
            job = self.waiting[0]
            if not self.admitted(job):
                break
            self.waiting.popleft()
            self.running.append(job)
            left -= self.part(job, min(job.target(self.ahead) - job.computed, left), parts)
        if left == self.budget:
            gave_way = len(self.preempted) > before and not self.flight
            return gave_way and self.schedule(now)
        self.launch(now, parts, left)
        return True

    def part(self, job, new, parts):
        needed = max(math.ceil((job.computed + new) / reference.BLOCK) - job.blocks, 0)
        self.free -= needed
        job.blocks += needed
        start = job.computed
        job.computed += new
        last = job.computed == job.prompt + job.scheduled
        parts[job] = (start, new, last)
        job.scheduled += last
        return new

    def launch(self, now, parts, left):
        decode = {job: last and new == 1 and job.scheduled > 1 for job, (_, new, last) in parts.items()}
        jobs = [job for job, (_, _, last) in parts.items() if last]
        prompts = [(start, new) for job, (start, new, _) in parts.items() if not decode[job]]
        took = self.time(
            tokens=self.budget - left,
            sequences=len(jobs),
            decodes=sum(decode.values()),
            context=sum(job.computed for job in parts if decode[job]),
            pairs=sum(sum(range(start + 1, start + new + 1)) for start, new in prompts),
        )
        at = max(now, self.stage_free[0], self.turn_free)
        self.turn_free = at + self.turn_s
        for stage, share in enumerate(self.shares):
            at = max(at, self.stage_free[stage]) + took * share
            self.stage_free[stage] = at
        self.flight.append((at, jobs))
        self.steps.append((sum(new for _, new in prompts), sum(decode.values()), len(self.running), len(self.waiting)))


@st.composite
def cases(draw):
    """Small cases in which blocks are scarce, so that the lowest priority is preempted."""
    n = draw(st.integers(2, 25))
    inputs = draw(st.lists(st.integers(1, 60), min_size=n, max_size=n))
    outputs = draw(st.lists(st.integers(1, 150), min_size=n, max_size=n))
    gaps = draw(st.lists(st.floats(0.0, 0.03), min_size=n, max_size=n))
    arrival = np.cumsum(np.asarray(gaps) + 1e-5 * np.sqrt(np.arange(1, n + 1)))
    priorities = draw(st.lists(st.integers(-3, 3), min_size=1, max_size=4))
    label = draw(st.lists(st.integers(0, len(priorities) - 1), min_size=n, max_size=n))
    least = max(math.ceil((i + o) / 16) for i, o in zip(inputs, outputs, strict=True))
    scheduler = Scheduler(
        replicas=draw(st.sampled_from([1, 1, 2])),
        max_num_seqs=draw(st.integers(1, 12)),
        max_num_batched_tokens=draw(st.integers(8, 300)),
        kv_blocks=least + draw(st.integers(0, 6)),
        stages=draw(st.sampled_from([1, 1, 2])),
        asynchronous=draw(st.booleans()),
        front_end_ms=0.0,
        scheduling_policy="priority",
    )
    return traffic(arrival, inputs, outputs, classes=labelled(label, priorities)), scheduler


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_step_by_step_like_a_plain_scheduler_with_priorities(case):
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    reference.Job.__hash__ = object.__hash__
    jobs = [
        reference.Job(number=i, prompt=int(prompt), wanted=int(wanted), cached=0)
        for i, (prompt, wanted) in enumerate(zip(offered.input_len, offered.output_len, strict=True))
    ]
    levels = offered.classes.levels
    engines = plain_engines(scheduler, PriorityEngine, key=lambda job: (levels[job.number], job.number))
    reference.simulate(jobs, offered.arrival_s.tolist(), engines)
    assert len(served) == len(offered)
    for i, job in enumerate(jobs):
        assert served.ttft_ms[i] == pytest.approx(1e3 * (job.tokens[0] - offered.arrival_s[i]), rel=1e-6, abs=1e-6)
        assert served.e2e_ms[i] == pytest.approx(1e3 * (job.tokens[-1] - offered.arrival_s[i]), rel=1e-6, abs=1e-6)
        assert served.preemptions[i] == sum(engine.preempted.count(i) for engine in engines)
    for replica, engine in enumerate(engines):
        own = served.log[served.log[:, 0] == replica]
        assert own[:, [4, 5, 7, 8]].tolist() == np.array(engine.steps).reshape(-1, 4).tolist()


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_no_request_or_block_is_lost(case):
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), scheduler, steps_logged=20_000)
    assert len(served) == len(offered)
    assert np.isfinite(served.e2e_ms).all()
    assert served.log[:, 6].sum() == offered.output_len.sum()
    assert (served.log[:, 9] <= scheduler.kv_blocks).all()
    assert (served.log[:, 4] + served.log[:, 5] <= scheduler.max_num_batched_tokens).all()


@settings(deadline=None, max_examples=100)
@given(case=cases(), priority=st.integers(-5, 5))
def test_one_priority_is_the_plain_order_of_those_that_wait(case, priority):
    """Where nothing is preempted, one level of priority is first come first served, bit for bit."""
    offered, _ = case
    n = len(offered)
    ample = {"replicas": 1, "max_num_seqs": 4, "max_num_batched_tokens": 64, "kv_blocks": 10_000}
    alike = Arrivals(
        arrival_s=offered.arrival_s,
        input_len=offered.input_len,
        output_len=offered.output_len,
        duration_s=offered.duration_s,
        classes=labelled(np.zeros(n), [priority]),
    )
    times = linear_times(64, 4)
    plain = serve(alike, times, Scheduler(**ample))
    ordered = serve(alike, times, Scheduler(**ample, scheduling_policy="priority"))
    assert ordered.ttft_ms.tolist() == plain.ttft_ms.tolist()
    assert ordered.e2e_ms.tolist() == plain.e2e_ms.tolist()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_higher_priority_never_waits_longer_in_the_mean(data):
    """A law where requests are equally long and no block is missing: then a place in the batch is worth the same to all."""
    n = data.draw(st.integers(2, 60))
    gaps = data.draw(st.lists(st.floats(0.0, 0.1), min_size=n, max_size=n))
    label = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    offered = traffic(np.cumsum(gaps), [40] * n, [20] * n, classes=labelled(label, [0, 1, 2]))
    common = {"replicas": 1, "max_num_seqs": 3, "max_num_batched_tokens": 256, "kv_blocks": 1000}
    times = linear_times(256, 3)
    plain = serve(offered, times, Scheduler(**common))
    ordered = serve(offered, times, Scheduler(**common, scheduling_policy="priority"))
    assert ordered.ttft_ms.mean() == pytest.approx(plain.ttft_ms.mean(), rel=1e-9)
    for level in (0, 1):  # with those above it: what they gain is what those below lose
        upper = np.asarray(label) <= level
        if upper.any():
            assert ordered.ttft_ms[upper].mean() <= plain.ttft_ms[upper].mean() * (1 + 1e-9)


def test_the_lowest_priority_is_preempted_though_it_came_first():
    """Two that grow out of their blocks: the later one of the higher priority goes on, the other is computed again."""
    offered = traffic([0.0, 1e-4], [100, 100], [200, 200], classes=labelled([1, 0], [0, 1]))
    common = {"replicas": 1, "max_num_seqs": 2, "max_num_batched_tokens": 512, "kv_blocks": 30}
    times = linear_times(512, 2)
    plain = serve(offered, times, Scheduler(**common))
    ordered = serve(offered, times, Scheduler(**common, scheduling_policy="priority"))
    assert plain.preemptions.tolist() == [0, 1]
    assert ordered.preemptions.tolist() == [1, 0]
