"""Offers to a stand-in for vLLM: what is stored of them, and what a second worker passes over."""

import asyncio
import json
import re
import time
from dataclasses import replace

import pytest

from catalog.errors import InputError
from catalog.requests import read_requests
from catalog.runs import read_runs
from probes.benchmark_plan import read_plan
from probes.gpu_telemetry import Meter
from probes.sweep import add_record, undone
from probes.sweep_command import Order
from probes.vllm_engine.serving import record_offers

LENGTHS = {"input_len": 40, "output_len": 8}
PLAN = {
    "source": "a test",
    "gpu": "H200-SXM",
    "loads": [
        {
            "model": "meta-llama/Llama-2-7b-hf",
            "role": "fit",
            "offers": [
                {**LENGTHS, "share": 0.25, "seconds": 0.3},
                {**LENGTHS, "concurrency": 4, "seconds": 0.5},
                {**LENGTHS, "concurrency": 1, "seconds": 0.3},
                {**LENGTHS, "share": 0.5, "seconds": 0.5},
                {**LENGTHS, "rate": 30.0, "seconds": 0.4, "spread": 0.5},
            ],
        }
    ],
}


class FakeServer:
    name, version, max_len, kv_capacity_tokens = "vllm", "0.24.0", 400, 9000

    def __init__(self):
        self.meter = Meter(())
        self.reports = []
        self.fingerprint = {"vllm": "0.24.0"}
        self.prompts = []
        self.gaps_ms = []

    async def look(self):
        self.reports = [{"used_gib": 1.5}]

    async def stream(self, prompt, output_len):
        self.prompts.append(len(prompt))
        times = []
        for _ in range(output_len):
            await asyncio.sleep(0.004)
            times.append(time.perf_counter())
            yield 1
        self.gaps_ms.append(1e3 * (times[-1] - times[0]) / max(output_len - 1, 1))


def an_order(tmp_path, plan=PLAN):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    (load,) = read_plan(path)
    return Order(
        text="", load=load, out=tmp_path, store=tmp_path / "runs.jsonl", log=tmp_path / "log", gpus=(0,), port=1
    )


def test_each_offer_is_a_run_with_its_requests(tmp_path, capsys):
    order = an_order(tmp_path)
    server = FakeServer()
    asyncio.run(record_offers(server, order))
    closed, single, half, mixed = read_runs(tmp_path / "runs.jsonl")
    assert "left out: no closed loop with these lengths came before it" in capsys.readouterr().out
    assert (closed.regime, closed.batch, closed.rate) == ("steady", 4, None)
    assert min(server.gaps_ms) <= closed.tpot_ms <= max(server.gaps_ms)  # as the server itself counted, on any machine
    assert single.output_tok_s < closed.output_tok_s  # it is the best of them that shares are shares of
    assert half.regime == "open"
    assert half.rate == pytest.approx(0.5 * closed.output_tok_s / 8, rel=0.01)
    assert (mixed.rate, mixed.kv_capacity_tokens, mixed.peak_memory_gib) == (30, 9000, 1.5)
    assert json.loads(mixed.fingerprint)["spread"] == 0.5
    requests = read_requests(tmp_path / "requests.jsonl")
    assert {each.run_id for each in requests} == {closed.run_id, single.run_id, half.run_id, mixed.run_id}
    of_half = [each for each in requests if each.run_id == half.run_id]
    assert all((each.input_len, each.output_len) == (40, 8) for each in of_half)
    assert sum(each.ttft_ms for each in of_half) / len(of_half) == pytest.approx(half.ttft_ms, abs=0.01)
    assert len({each.input_len for each in requests if each.run_id == mixed.run_id}) > 1


def test_a_second_worker_goes_on_where_the_first_stood(tmp_path):
    order = an_order(tmp_path)
    asyncio.run(record_offers(FakeServer(), order))
    kept = (tmp_path / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs.jsonl").write_text("\n".join(kept[:1]) + "\n")
    server = FakeServer()
    asyncio.run(record_offers(server, order))
    runs = read_runs(tmp_path / "runs.jsonl")
    assert [run.regime for run in runs] == ["steady", "open", "steady", "open", "open"]
    # by the closed loop in the store
    rates = [run.rate for run in (runs[1], runs[3])]
    assert rates == pytest.approx([share * runs[0].output_tok_s / 8 for share in (0.25, 0.5)], rel=0.01)


def test_offers_for_which_no_time_was_left_are_taken_up_by_the_next_run(tmp_path, capsys):
    order = an_order(tmp_path)
    load = order.load
    short = replace(order, load=replace(load, measure_s=0.2))  # the first loop takes longer
    asyncio.run(record_offers(FakeServer(), short))
    assert len(re.findall(r"left out: \d+ s were spent on this load", capsys.readouterr().out)) == 3
    (closed,) = read_runs(tmp_path / "runs.jsonl")
    add_record(tmp_path, load, "done", 9.0)  # as the sweep notes it when its worker has ended
    early, _, *late = load.offers  # the first is a share of a loop that comes after it
    assert undone(load, tmp_path) == (early, *late)
    asyncio.run(record_offers(FakeServer(), order))
    add_record(tmp_path, load, "done", 9.0)
    assert undone(load, tmp_path) == ()
    runs = read_runs(tmp_path / "runs.jsonl")
    assert runs[0] == closed
    assert {run.run_id for run in runs} == {load.run_id(offer) for offer in load.offers}
    assert len(runs) == len(load.offers)


@pytest.mark.parametrize(
    ("offers", "words"),
    [({"rate": 1}, "offers is .*; it must be a list"), ([{"rate": 1}], "load 1 offer 1: .*input_len")],
)
def test_bad_offers_name_their_place(tmp_path, offers, words):
    plan = {**PLAN, "loads": [{**PLAN["loads"][0], "offers": offers}]}
    with pytest.raises(InputError, match=words):
        an_order(tmp_path, plan)


def test_shares_are_of_the_loads_own_closed_loops(tmp_path, capsys):
    order = an_order(tmp_path)
    asyncio.run(record_offers(FakeServer(), order))
    capsys.readouterr()
    path = tmp_path / "other.json"
    share = [{**LENGTHS, "share": 0.5, "seconds": 0.3}]
    path.write_text(json.dumps({**PLAN, "loads": [{**PLAN["loads"][0], "label": "other", "offers": share}]}))
    (load,) = read_plan(path)
    asyncio.run(record_offers(FakeServer(), replace(order, load=load)))
    assert f"{load.run_id(load.offers[0])} left out: no closed loop" in capsys.readouterr().out
