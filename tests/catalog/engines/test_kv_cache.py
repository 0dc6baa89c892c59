"""Engines' own accounting of memory."""

import dataclasses

import pytest

from catalog.engines import (
    find_engine,
    graph_sizes,
    kv_groups,
    profile_rows,
    reserves_graphs,
    resolve,
    static_fraction,
)
from catalog.errors import InputError
from catalog.gpus import find_gpu, parse_cluster
from catalog.models.find import all_models, find_model
from catalog.models.stack import stack
from catalog.schema import Deployment


def model(name):
    return find_model(name).value


def gpu(name):
    return find_gpu(name).value


def sizes(engine, gpus, **knobs):
    cluster = parse_cluster(gpus).value
    deployment = resolve(Deployment(engine=engine, **knobs), model("meta-llama/Meta-Llama-3.1-8B"), cluster).value
    return graph_sizes(find_engine(engine), cluster.gpu, deployment)


def test_vllm_captures_what_its_documentation_says():
    # config/vllm.py: [1, 2, 4] + range(8, 256, 8) + range(256, min(2 x max_num_seqs, 512) + 1, 16)
    assert sizes("vllm", "1xH100") == (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
    assert sizes("vllm", "1xH100", max_num_seqs=8) == (1, 2, 4, 8, 16)
    assert sizes("vllm", "1xH100", max_num_seqs=1) == (1, 2)
    assert sizes("vllm", "1xH100", max_num_seqs=64, max_num_batched_tokens=100)[-2:] == (96, 100)
    assert sizes("vllm", "1xH100", compiled=False) == sizes("vllm", "1xH100", graphs=False) == ()


def test_sglang_captures_less_on_small_gpus():
    assert sizes("sglang", "1xH100")[-1] == 256
    assert sizes("sglang", "4xH100", tp=4)[-1] == 512
    assert sizes("sglang", "1xL4")[-1] == 48
    assert sizes("sglang", "1xH100", max_num_seqs=20) == (1, 2, 4, 8, 12, 16, 20)


def test_which_models_have_graphs_set_aside():
    vllm = find_engine("vllm")
    assert not reserves_graphs(vllm, model("meta-llama/Meta-Llama-3.1-8B"), gpu("H100"))
    assert reserves_graphs(vllm, model("meta-llama/Meta-Llama-3.1-8B"), gpu("H100"), sequence_parallel=True)
    assert reserves_graphs(vllm, model("Qwen/Qwen2.5-7B"), gpu("H100"))
    assert not reserves_graphs(vllm, model("Qwen/Qwen2.5-7B"), gpu("MI300X"))


def test_the_sampler_is_sized_for_the_running_cap():
    assert profile_rows(1024, 8192) == 1024
    assert profile_rows(1024, 512) == 512


@pytest.mark.parametrize(
    ("name", "size", "full", "windowed"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", 32, 1, 0),
        ("mistralai/Mistral-7B-v0.1", 32, 0, 1),  # every layer windowed
        ("google/gemma-3-27b-it", 10, 1, 6),  # 10 full, 52 windowed in groups of 10, the last padded
        ("openai/gpt-oss-20b", 12, 1, 1),
        ("google/gemma-2-9b", 21, 1, 1),
    ],
)
def test_kv_groups(name, size, full, windowed):
    groups = kv_groups(model(name))
    assert (groups.size, groups.full, groups.windowed) == (size, full, windowed)


def test_nearly_equal_kinds_are_padded_to_the_commoner():
    # core/kv_cache_utils.py's own example: 12 windowed and 13 full make two groups of 13
    odd = dataclasses.replace(model("openai/gpt-oss-20b"), num_hidden_layers=25, num_windowed_layers=12)
    assert (kv_groups(odd).size, kv_groups(odd).full, kv_groups(odd).windowed) == (13, 1, 1)


def test_groups_hold_every_layer():
    for each in all_models():
        groups = kv_groups(each)
        mixing = sum(
            count * sum(bool(part.state_bytes or part.cached[0]) for part in layer.mixers)
            for count, layer in stack(each).counts
        )
        assert groups.size * (groups.full + groups.windowed + groups.states) >= mixing


def test_full_use_is_sglangs_own_default():
    # memory_hook.py on an 80 GB GPU: max(512 + 8192 x 1.5 + 1/8 GiB + 2 x 256 + 8 x graphs MiB, 10 GiB)
    cluster = parse_cluster("1xH100").value
    deployment = resolve(
        Deployment(engine="sglang", gpu_memory_utilization=1.0), model("meta-llama/Meta-Llama-3.1-8B"), cluster
    ).value
    sglang = find_engine("sglang")
    graphs = len([*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)])
    graphs += len([*range(1280, 4097, 256), *range(4608, 8193, 512)])
    reserve = (512 + 8192 * 1.5 + 128 + 512 + 8 * graphs) / 1024
    share = static_fraction(deployment, sglang, model("meta-llama/Meta-Llama-3.1-8B"), cluster.gpu)
    assert share == pytest.approx(1 - reserve / cluster.gpu.memory_gib, abs=1e-3)


def test_a_share_that_is_stated_is_sglangs_own_word():
    """``mem_fraction_static`` of 0.42 is passed as it is."""
    cluster = parse_cluster("1xH100").value
    llama = model("meta-llama/Meta-Llama-3.1-8B")
    deployment = resolve(Deployment(engine="sglang", gpu_memory_utilization=0.42), llama, cluster).value
    assert static_fraction(deployment, find_engine("sglang"), llama, cluster.gpu) == 0.42


def test_a_share_that_leaves_nothing_is_refused():
    deployment = resolve(
        Deployment(engine="sglang", gpu_memory_utilization=0.02),
        model("meta-llama/Meta-Llama-3.1-8B"),
        parse_cluster("1xH100").value,
    ).value
    with pytest.raises(InputError, match="leaves no room"):
        static_fraction(deployment, find_engine("sglang"), model("meta-llama/Meta-Llama-3.1-8B"), gpu("H100"))
