"""Traffic against a stand-in engine: who arrives when, how long they are, and what is timed."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError
from probes.serving_benchmark import TrafficProfile, lengths, poisson, read_offer, serve, summary

OFFER = TrafficProfile(input_len=20, output_len=5, seconds=0.6, concurrency=4)


def engine(step_s, seen=None):
    """One token a step, each request on its own."""

    async def stream(prompt, output_len):
        if seen is not None:
            seen.append((len(prompt), output_len))
        for _ in range(output_len):
            await asyncio.sleep(step_s)
            yield 1

    return stream


def served(offer, stream, **more):
    return asyncio.run(serve(stream, offer, vocab_size=5000, max_len=4096, **more))


@given(st.floats(0.5, 50), st.integers(0, 5))
def test_arrivals_are_a_poisson_process(rate, seed):
    seconds = 2000 / rate
    arrivals = poisson(rate, seconds, seed)
    assert np.all(np.diff(arrivals) >= 0)
    assert arrivals[0] >= 0
    assert arrivals[-1] < seconds
    assert abs(len(arrivals) - 2000) < 6 * np.sqrt(2000)
    assert np.std(np.diff(arrivals)) * rate == pytest.approx(1, rel=0.2)  # of an exponential: its mean
    assert np.array_equal(arrivals, poisson(rate, seconds, seed))


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 2), st.integers(2, 5000))
def test_lengths_stay_within_what_the_engine_takes(input_len, output_len, spread, max_len):
    offer = replace(OFFER, input_len=input_len, output_len=output_len, spread=spread)
    inputs, outputs = lengths(offer, 300, max_len)
    assert inputs.min() >= 1
    assert outputs.min() >= 1
    assert (inputs + outputs).max() <= max_len
    if not spread and input_len + output_len <= max_len:
        assert set(inputs) == {input_len}
        assert set(outputs) == {output_len}


def test_lengths_have_the_mean_and_the_spread_asked_for():
    offer = replace(OFFER, input_len=1000, output_len=200, spread=0.5)
    for found, mean in zip(lengths(offer, 20_000, 100_000), (1000, 200), strict=True):
        assert np.mean(found) == pytest.approx(mean, rel=0.03)
        assert np.std(found) / np.mean(found) == pytest.approx(0.5, rel=0.05)


def test_a_closed_loop_keeps_its_requests_in_flight():
    result = served(OFFER, engine(0.01))
    found = summary(result)
    assert found["batch"] == pytest.approx(4, abs=1)
    assert found["tpot_ms"] == pytest.approx(10, rel=0.3)
    assert found["ttft_ms"] == pytest.approx(10, rel=0.4)
    assert found["output_tok_s"] == pytest.approx(4 / 0.0105, rel=0.3)
    assert result.window[0] > 0
    assert all(each.arrival_s >= result.window[0] for each in result.requests)
    assert result.completed_s == pytest.approx(4 / 0.0525, rel=0.3)
    assert {each.output_len for each in result.requests} == {5}  # the shortened first ones are not among them


def test_an_open_loop_times_from_when_a_request_was_due():
    offer = replace(OFFER, concurrency=None, rate=40.0, seconds=1.0)
    seen = []
    result = served(offer, engine(0.002, seen))
    assert [each.arrival_s for each in result.requests] == pytest.approx(poisson(40, 1.0).tolist())
    assert seen == [(20, 5)] * len(result.requests)
    assert all(each.first_s - each.arrival_s >= 0.0015 for each in result.requests)
    assert not result.lost


def test_what_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr("probes.serving_benchmark.DRAIN_S", 0.2)
    offer = replace(OFFER, concurrency=None, rate=10.0, seconds=0.5)
    result = served(offer, engine(100.0))
    assert result.lost == len(poisson(10, 0.5))
    with pytest.raises(InputError, match="no request was completed"):
        summary(result)


def test_an_engine_that_fails_ends_the_run():
    async def stream(*_):
        yield 1
        raise RuntimeError("engine died")

    with pytest.raises(RuntimeError, match="engine died"):
        served(replace(OFFER, concurrency=None, rate=20.0), stream)


def test_too_few_tokens_are_no_answer():
    async def stream(_, output_len):
        yield output_len - 1

    with pytest.raises(RuntimeError, match="asked for 5 tokens, got 4"):
        served(replace(OFFER, concurrency=None, rate=20.0), stream)


def test_names_tell_offers_apart():
    offers = [OFFER, replace(OFFER, concurrency=8), replace(OFFER, spread=0.5), replace(OFFER, output_len=6)]
    offers += [replace(OFFER, concurrency=None, rate=2.0, seed=seed) for seed in (0, 1)]
    offers += [replace(OFFER, concurrency=None, share=0.5)]
    assert len({offer.name for offer in offers}) == len(offers)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, "it is 3; it must be an object"),
        ({"input_len": 1, "output_len": 1, "seconds": 1}, "has none of concurrency, rate, share"),
        ({"input_len": 1, "output_len": 1, "seconds": 1, "rate": 1.0, "concurrency": 2}, "concurrency and rate"),
        ({"input_len": 0, "output_len": 1, "seconds": 1, "rate": 1.0}, "input_len"),
        ({"input_len": 1, "output_len": 1, "seconds": 0, "rate": 1.0}, "seconds"),
        ({"input_len": 1, "output_len": 1, "seconds": 1, "rate": -1.0}, "rate"),
        ({"input_len": 1, "output_len": 1, "seconds": 1, "rate": 1.0, "spread": 9}, "spread is 9"),
        ({"input_len": 1, "output_len": 1, "seconds": 1, "rates": 1.0}, "rates"),
    ],
)
def test_bad_offers_are_refused_in_one_line(entry, words):
    with pytest.raises(InputError, match=words) as error:
        read_offer(entry, "load 1")
    assert "\n" not in str(error.value)
