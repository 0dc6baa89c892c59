"""Knobs of engines that recipes set: polling for arrivals, holding prompts back to fill a batch, and the rate of delivery."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.simulator.scheduler import Scheduler, serve
from advisor.simulator.serving import SchedulerKnobs
from catalog.engines import engine_timing
from catalog.errors import InputError
from tests.advisor.simulator.test_scheduler_loop import cases, times_of, traffic

SMALL = Scheduler(replicas=1, max_num_seqs=8, max_num_batched_tokens=256, kv_blocks=200, front_end_ms=0.0)

knobs = st.fixed_dictionaries(
    {
        "poll_steps": st.sampled_from([1, 3, 10, 30]),
        "batch_wait_steps": st.sampled_from([0, 2, 20]),
        "delivery_tok_s": st.sampled_from([np.inf, 200.0, 20_000.0]),
    }
)


@settings(deadline=None, max_examples=80)
@given(case=cases(), chosen=knobs)
def test_no_request_and_no_token_is_lost_whatever_the_knobs(case, chosen):
    offered, scheduler = case
    served = serve(offered, times_of(scheduler), replace(scheduler, **chosen), steps_logged=20_000)
    if offered.concurrency is None:
        assert len(served) == len(offered)
    assert served.log[:, 6].sum() == served.output_len.sum()
    assert (served.ttft_ms > 0).all()
    assert (served.e2e_ms >= served.ttft_ms - 1e-9).all()


@settings(deadline=None, max_examples=80)
@given(case=cases(), rate=st.sampled_from([50.0, 500.0]))
def test_a_front_end_delivers_no_more_than_its_rate(case, rate):
    offered, scheduler = case
    alone = replace(scheduler, replicas=1)
    served = serve(offered, times_of(alone), replace(alone, delivery_tok_s=rate))
    assert served.end_s >= served.output_len.sum() / rate * (1 - 1e-9)


def one_decoding_and_one_that_comes(**chosen):
    """A long answer is being decoded when a short one comes; returns the milliseconds to its first token."""
    scheduler = replace(SMALL, **SchedulerKnobs(**chosen).chosen(engine_timing("vllm")))
    served = serve(traffic([0.0, 0.05], [64, 64], [400, 5]), times_of(scheduler), scheduler)
    return served.ttft_ms[1]


def test_a_request_waits_for_the_steps_between_two_looks():
    waits = [one_decoding_and_one_that_comes(poll_steps=n) for n in (1, 10, 30)]
    assert waits[0] < waits[1] < waits[2]
    assert waits[2] - waits[0] <= 30 * 6.0


def test_a_prompt_is_held_back_until_the_steps_are_over_or_a_step_is_full():
    at_once, held = (one_decoding_and_one_that_comes(batch_wait_steps=n) for n in (0, 20))
    assert held - at_once == pytest.approx(20 * 4.2, rel=0.2)


def test_knobs_that_are_not_stated_are_the_engines():
    assert SchedulerKnobs().chosen(engine_timing("sglang"))["delivery_tok_s"] == 20_000.0
    assert SchedulerKnobs(delivery_tok_s=1e5).chosen(engine_timing("sglang"))["delivery_tok_s"] == 1e5
    assert SchedulerKnobs().chosen(engine_timing("vllm")) == {
        "poll_steps": 1,
        "batch_wait_steps": 0,
        "delivery_tok_s": np.inf,
    }


@pytest.mark.parametrize("wrong", [{"poll_steps": 0}, {"batch_wait_steps": -1}, {"delivery_tok_s": 0.0}])
def test_knobs_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SchedulerKnobs(**wrong)
