"""Technology explored: budgets, sweeps that never make things worse, the turn, and two generations taken apart."""

import itertools
import json
import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import advisor
from advisor.cli import app
from advisor.technology.sweeps import SWEEPS, points
from advisor.technology.whatif_gpu import on_memory, on_node
from catalog.gpus import find_gpu, parse_cluster
from catalog.technology import dram_generations, link_generations, logic_nodes

A100 = find_gpu("A100").value


def test_every_generation_has_a_source_and_the_later_is_better():
    nodes = list(logic_nodes().values())
    assert [each.nm for each in nodes] == sorted((each.nm for each in nodes), reverse=True)
    assert (nodes[0].nm, nodes[-1].nm) == (12, 1)
    for one, other in itertools.pairwise(nodes):
        assert other.density > one.density
        assert other.energy < one.energy
    stacked = [each for each in dram_generations().values() if not each.stacks]
    assert [each.gbps for each in stacked] == sorted(each.gbps for each in stacked)
    known = [
        *nodes,
        *dram_generations().values(),
        *link_generations("link").values(),
        *link_generations("network").values(),
    ]
    assert all(each.source for each in known)
    assert any(each.extrapolated for each in known)


def test_a_gpu_on_its_own_node_is_itself():
    gpu, _ = on_node(A100, logic_nodes()["N7"], area_mm2=None, power_w=None)
    assert gpu == A100


def test_budgets_bound_the_arithmetic():
    node = logic_nodes()["N3"]
    plain, _ = on_node(A100, node, area_mm2=None, power_w=None)
    small, by = on_node(A100, node, area_mm2=100, power_w=None)
    assert (by, small.fp16_tflops < plain.fp16_tflops) == ("area", True)
    cool, by = on_node(A100, node, area_mm2=None, power_w=200)
    assert (by, cool.fp16_tflops < plain.fp16_tflops) == ("power", True)
    both, _ = on_node(A100, node, area_mm2=8260, power_w=10_000)
    assert both.fp16_tflops > 2 * plain.fp16_tflops


@pytest.mark.parametrize("budget", [{"power_w": 1e-320}, {"area_mm2": 0.0}, {"power_w": math.nan}, {"area_mm2": 1e30}])
def test_budgets_that_no_gpu_has_are_refused(budget):
    with pytest.raises(advisor.InputError, match=r"it must be from 1 to 1e\+06"):
        advisor.explore("llama-13b", "1xA100", **budget)


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("task", ["inference", "training"])
def test_better_technology_is_never_slower(sweep, task):
    asked = {"batch": 64, "task": "training"} if task == "training" else {"batch": 4}
    found = advisor.explore("llama-2-7b", "8xA100", sweep=sweep, **asked)
    order = sorted(found.points, key=lambda point: -point.x if sweep == "node" else point.x)
    times = [point.ms for point in order if point.ms is not None]
    assert len(times) >= 3
    if sweep == "dram":  # generations differ in capacity, too, so that layouts do
        times = [point.ms for point in order if point.ms is not None and point.label.startswith("HBM")]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(times))
    for point in found.points:
        if point.ms is not None:
            assert point.low <= point.ms <= point.high
            assert sum(point.shares.values()) == pytest.approx(1)


def test_latency_against_bandwidth_turns_where_overhead_takes_over():
    found = advisor.explore("llama-2-13b", "1xA100", sweep="bandwidth", factors=[0.5, 1, 2, 4, 8, 16, 32])
    assert found.points[0].bottleneck == "memory"
    assert found.points[-1].bottleneck == "overhead"
    assert found.turn is not None
    before = [point.ms for point in found.points if point.x <= found.turn]
    assert all(math.log2(one / other) >= 0.5 for one, other in itertools.pairwise(before))


@pytest.mark.slow
def test_two_generations_taken_apart_multiply_to_the_gain():
    found = advisor.explore("gpt-3-175b", "256xA100", task="training", batch=256, to="B200")
    assert math.prod(found.factors.values()) == pytest.approx(found.speedup)
    assert max(found.factors, key=found.factors.get) == "arithmetic"
    assert all(value > 0.99 for value in found.factors.values())
    assert found.speedup < 9000 / 312 * 1.5


def test_a_memory_generation_brings_bandwidth_and_capacity():
    gpu = on_memory(A100, dram_generations()["HBM4"])
    assert (gpu.memory_bandwidth_gbps, gpu.memory_gib) == (5 * 2000, 5 * 33.5)
    assert replace(gpu, memory_bandwidth_gbps=A100.memory_bandwidth_gbps, memory_gib=A100.memory_gib) == A100


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"sweep": "dice"}, "one of node, dram"),
        ({"node": "N6", "sweep": "dram"}, "unknown logic node"),
        ({"dram": "HBM9"}, "unknown memory"),
        ({"factors": [0]}, "above 0"),
        ({"output_len": 1}, "takes at least 2"),
        ({"task": "rest"}, "inference or training"),
        ({"to": "B200"}, "--task training"),
    ],
)
def test_wrong_input_is_answered_in_one_line(question, message):
    with pytest.raises(advisor.InputError, match=message):
        advisor.explore("llama-2-7b", "1xA100", **question)


def test_gpus_of_unknown_making_are_named():
    with pytest.raises(advisor.InputError, match="are not known; those of V100"):
        points(parse_cluster("1xT4").value, "node")


def test_the_command_answers_people_and_machines():
    asked = ["explore", "--model", "llama-2-7b", "--gpus", "1xA100", "--sweep", "dram"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "HBM4E*" in shown.stdout
    body = json.loads(CliRunner().invoke(app, [*asked, "--format", "json"]).stdout)
    assert body["schema"] == "advisor/exploration/1"
    assert len(body["points"]) == len(dram_generations())
