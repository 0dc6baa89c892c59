"""Collectives over several nodes: rails, leaves and an oversubscribed spine, in inference and in training."""

from dataclasses import replace

import numpy as np
import pytest

import advisor
from advisor.perf_model.collectives import SLOW_LATENCY, collective_ms
from advisor.perf_model.parameters import Parameters
from catalog.gpus import parse_cluster

TYPICAL = Parameters.typical()
CLUSTER = parse_cluster("64x8xH100-SXM", {"network_gbps": "50GB/s"}).value


def all_reduce(cluster, message, group, *, stride=1.0):
    time = collective_ms("all_reduce", np.array([message]), np.array([float(group)]), cluster, TYPICAL, stride=stride)
    return float(time[0])


@pytest.mark.parametrize("group", [16, 64, 512])
@pytest.mark.parametrize("message", [1e4, 1e7, 1e10])
def test_a_spine_without_oversubscription_costs_nothing(group, message):
    plain = all_reduce(CLUSTER, message, group)
    assert all_reduce(replace(CLUSTER, leaf_nodes=8), message, group) == plain
    crowded = replace(CLUSTER, leaf_nodes=8, oversubscription=4.0)
    assert all_reduce(crowded, message, group) >= plain
    assert all_reduce(replace(crowded, oversubscription=8.0), message, group) >= all_reduce(crowded, message, group)


def test_a_group_under_one_leaf_does_not_see_the_spine():
    crowded = replace(CLUSTER, leaf_nodes=8, oversubscription=4.0)
    assert all_reduce(crowded, 1e9, 64) == pytest.approx(all_reduce(CLUSTER, 1e9, 64), rel=1e-12)
    assert all_reduce(crowded, 1e9, 128) > all_reduce(CLUSTER, 1e9, 128)


def test_long_messages_by_hand():
    """Two levels: 8 nodes under a leaf, 8 leaves, a quarter of the bandwidth above them."""
    crowded = replace(CLUSTER, leaf_nodes=8, oversubscription=4.0)
    slices = 2 * 8e10 / 8
    bandwidth = 50e6 * TYPICAL.ring_link
    between = slices * 7 / 8 / bandwidth + slices / 8 * 7 / 8 / (bandwidth / 4)
    within = all_reduce(replace(CLUSTER, nodes=1), 8e10, 8)
    latency = TYPICAL.collective_us * SLOW_LATENCY["network"] * 1e-3 * np.log2(64)
    assert all_reduce(crowded, 8e10, 512) == pytest.approx(within + between + latency, rel=1e-9)


def test_latency_grows_with_the_logarithm_of_the_nodes():
    two, four, sixteen = (all_reduce(CLUSTER, 1.0, 8 * nodes) for nodes in (2, 4, 16))
    step = TYPICAL.collective_us * SLOW_LATENCY["network"] * 1e-3
    assert four - two == pytest.approx(step, rel=1e-6)
    assert sixteen - four == pytest.approx(2 * step, rel=1e-6)


def test_training_and_inference_see_the_same_network():
    fabric = {"leaf_nodes": 2, "oversubscription": 8}
    asked = {"tp": 8, "pp": 1, "batch": 64, "framework": "megatron-lm", "micro_batch": 1, "recompute": "full"}
    wide, crowded = (advisor.estimate_training("gpt-22b", "8x8xA100", set_gpu=each, **asked) for each in (None, fabric))
    assert crowded.breakdown["replicas"] > 2 * wide.breakdown["replicas"]
    served = {"tp": 32, "batch": 8, "input_len": 512, "output_len": 16, "dtype": "bfloat16"}
    wide, crowded = (advisor.estimate("llama-2-70b", "4x8xA100", set_gpu=each, **served) for each in (None, fabric))
    assert crowded.prefill_ms > wide.prefill_ms


@pytest.mark.parametrize("value", ["0.5", "none"])
def test_an_oversubscription_that_cannot_be(value):
    with pytest.raises(advisor.InputError, match="oversubscription"):
        parse_cluster("4x8xH100", {"oversubscription": value})
