"""The programs that measured: conversations, the order of loads, what SGLang's log says, tables."""

import asyncio
import itertools

import pytest

from benchmarks.measure_sglang import stated
from benchmarks.measured_tables import main as write_tables
from benchmarks.sessions import SessionProfile, converse
from benchmarks.shared_gpu_loads import run
from catalog.jsonl_store import append_lines
from catalog.runs import append_runs, read_runs
from tests.benchmarks.test_measured_runs import MEASURED

PROFILE = SessionProfile(
    name="t",
    rate=40.0,
    seconds=0.2,
    turns=3,
    groups=2,
    system_len=10,
    first_len=5,
    turn_len=4,
    output_len=3,
    think_s=0.01,
)


def test_each_turn_sends_what_was_said_before():
    prompts = []

    async def ask(prompt, output_len):
        prompts.append(list(prompt))
        for number in range(output_len):
            await asyncio.sleep(0.001)
            yield [number], len(prompts)

    requests = asyncio.run(converse(ask, PROFILE, vocab_size=5000))
    sessions = {each.session for each in requests}
    assert len(requests) == 3 * len(sessions) == len(prompts)
    assert [each.input_len for each in requests if each.session == 0] == [15, 22, 29]
    by_length = {length: [p for p in prompts if len(p) == length] for length in (15, 22, 29)}
    for longer, shorter in ((22, 15), (29, 22)):
        assert all(any(p[: shorter + 3] == [*q, 0, 1, 2] for q in by_length[shorter]) for p in by_length[longer])
    assert len({tuple(p[:10]) for p in prompts}) == min(2, len(sessions))
    assert all(before.arrival_s <= after.arrival_s for before, after in itertools.pairwise(requests))
    assert all(each.arrival_s < each.first_s < each.last_s and each.cached_tokens for each in requests)


WORKER = """
import json, os, sys, time
order = json.loads(sys.argv[-1])
print(order["load"]["name"], flush=True)
open(order["out"] + "/order.txt", "a").write("start " + order["load"]["name"] + "\\n")
time.sleep(0.3)
os.write(order["ready"], b"READY\\n")
sys.stdin.readline()
open(order["out"] + "/order.txt", "a").write("measure " + order["load"]["name"] + "\\n")
"""


@pytest.mark.process
def test_a_load_waits_for_the_one_it_comes_after(tmp_path, monkeypatch):
    (tmp_path / "stand_in_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    loads = [{"name": "second", "gpus": [0], "after": "first"}, {"name": "first", "gpus": [0]}]
    run(loads, tmp_path, tmp_path / "logs", seconds=20, start_s=10, measure_s=1, module="stand_in_worker")
    steps = (tmp_path / "order.txt").read_text().split("\n")
    assert steps[:2] == ["start first", "start second"]
    assert sorted(steps[2:4]) == ["measure first", "measure second"]


def test_what_sglang_states_of_its_memory():
    log = """Load weight begin. avail mem=139.13 GB
Load weight end. elapsed=0.21 s, type=LlamaForCausalLM, avail mem=124.11 GB, mem usage=15.02 GB.
KV Cache is allocated. dtype: torch.bfloat16, #tokens: 355315, K size: 21.69 GB, V size: 21.69 GB
Capture target decode CUDA graph end. elapsed=3.93 s, mem usage=0.29 GB, avail mem=78.84 GB.
max_total_num_tokens=355315, max_running_requests=256, context_len=9216, available_gpu_mem=78.84 GB
"""
    memory = stated(log)
    assert (memory["kv_tokens"], memory["weights_gb"], memory["graph_gb"]) == (355315, 15.02, 0.29)
    assert stated("nothing of the kind") == {}


def test_tables_read_as_what_was_stored(tmp_path):
    runs = read_runs(MEASURED / "sglang_0.5.15_h200_runs.csv")
    append_runs(tmp_path / "runs.jsonl", runs)
    append_lines(tmp_path / "memory.jsonl", '{"load": "a", "gib": 1.5, "nothing": null}\n{"load": "b", "on": true}\n')
    assert write_tables([str(tmp_path), str(tmp_path / "x")]) == 0
    assert read_runs(tmp_path / "x_runs.csv") == runs
    assert (tmp_path / "x_memory.csv").read_text() == "load,gib,on\na,1.5,\nb,,true\n"
