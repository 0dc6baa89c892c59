"""Tiers below the GPUs' KV cache as they are written."""

import pytest

from catalog.engines import resolve
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.kv_offload import KvTier, read_kv_offload
from catalog.models.find import find_model
from catalog.schema import Cluster, Deployment


def test_tiers_are_read_in_the_order_of_their_speed():
    tiers = read_kv_offload("store=10TB@25GB/s+cpu=200GB, disk = 2TB @ 6")
    assert tiers == (
        KvTier(name="cpu", size_bytes=200e9),
        KvTier(name="disk", size_bytes=2e12, gbps=6.0),
        KvTier(name="store", size_bytes=10e12, gbps=25.0),
    )
    assert [tier.shared for tier in tiers] == [False, False, True]


def test_a_bare_size_is_of_gib_as_vllm_reads_it():
    assert read_kv_offload("cpu=24") == (KvTier(name="cpu", size_bytes=24 * 2**30),)


@pytest.mark.parametrize("text", [None, "", "none", " "])
def test_without_a_tier_there_is_none(text):
    assert read_kv_offload(text) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu", "a tier and its size, such as cpu=200GB"),
        ("cpu=", "a tier and its size"),
        ("tape=200GB", "one of cpu, disk, store"),
        ("cpu=some", "the size of cpu"),
        ("cpu=0", "above 0"),
        ("cpu=-5GB", "above 0"),
        ("cpu=nan", "above 0"),
        ("disk=1TB@fast", "the bandwidth of disk"),
        ("disk=1TB@0GB/s", "from 0.001"),
        ("cpu=1GB+cpu=2GB", "cpu more than once"),
        ("cpu=" + "9" * 500, "a tier and its size|below 1 EB|the size of cpu"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as refused:
        read_kv_offload(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_engines_that_keep_no_such_tiers_refuse_them():
    model, cluster = find_model("llama-3.1-8b").value, Cluster(gpu=find_gpu("H200").value, gpus_per_node=1)
    assert resolve(Deployment(kv_offload="cpu=9GB"), model, cluster).value.kv_offload == "cpu=9GB"
    with pytest.raises(InputError, match="KV blocks below the GPUs"):
        resolve(Deployment(engine="sglang", kv_offload="cpu=9GB"), model, cluster)
