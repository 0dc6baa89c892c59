"""GPUs, what-if changes and clusters as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import InputError, Note
from catalog.gpus import MOST_GPUS, all_gpus, find_gpu, parse_cluster, with_overrides
from catalog.names import squash
from catalog.tables import table

GPUS = {gpu.name: gpu for gpu in all_gpus()}


def test_every_gpu_is_there_with_its_source():
    assert len(GPUS) >= 37
    for gpu in GPUS.values():
        assert gpu.source, gpu.name
        assert gpu.compute_capability, gpu.name


def test_figures_hang_together():
    for gpu in GPUS.values():
        assert gpu.fp8_tflops == 0 or gpu.fp8_tflops == pytest.approx(2 * gpu.fp16_tflops, rel=0.02), gpu.name
        assert gpu.fp4_tflops == 0 or gpu.fp4_tflops >= 1.9 * gpu.fp8_tflops, gpu.name
        assert (gpu.nvlink_gbps > 0) == (gpu.topology != "pcie"), gpu.name
        sockets = ("Xeon", "EPYC", "Grace", "M2-", "M3-", "M4-")
        vendor = "cpu" if gpu.name.startswith(sockets) else "amd" if gpu.name.startswith("MI") else "nvidia"
        assert gpu.vendor == vendor
        has_fp8 = gpu.compute_capability in ("8.9", "9.0", "10.0", "10.3", "12.0", "12.1", "gfx942", "gfx950")
        assert (gpu.fp8_tflops > 0) == has_fp8, gpu.name
        assert gpu.bf16 == (gpu.compute_capability not in ("7.0", "7.5")), gpu.name
        if gpu.topology == "pairs":
            assert "optional" in gpu.notes or "joins two" in gpu.notes, gpu.name


@pytest.mark.parametrize(
    ("name", "marketing_gb"),
    [
        ("H100-SXM", 80),
        ("A100-SXM-80GB", 80),
        ("A100-SXM-40GB", 40),
        ("V100-SXM2-16GB", 16),
        ("H200-SXM", 141),
        ("T4", 16),
    ],
)
def test_memory_is_what_software_sees(name, marketing_gb):
    assert 0.9 * marketing_gb < GPUS[name].memory_gib < marketing_gb


def test_names_round_trip():
    for name in GPUS:
        assert find_gpu(name).value.name == name


def test_every_spelling_leads_to_one_entry():
    entries = table("gpus").entries.values()
    seen = {}
    for entry in entries:
        for name in {squash(name) for name in (entry.name, *entry.aliases, *entry.ambiguous)}:
            assert seen.setdefault(name, entry.name) == entry.name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-SXM-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIE-80GB"),
        ("NVIDIA-A100-PCIE-40GB", "A100-PCIE-40GB"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA H200", "H200-SXM"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Server"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("AMD Instinct MI300X", "MI300X"),
        ("h200_sxm", "H200-SXM"),
        ("l40s", "L40S"),
    ],
)
def test_other_spellings_need_no_note(typed, name):
    found = find_gpu(typed)
    assert (found.value.name, found.notes) == (name, ())


@pytest.mark.parametrize(
    ("typed", "name"),
    [("A100", "A100-SXM-80GB"), ("a100-80gb", "A100-SXM-80GB"), ("V100", "V100-SXM2-16GB"), ("H100", "H100-SXM")],
)
def test_ambiguous_names_say_how_they_are_read(typed, name):
    found = find_gpu(typed)
    assert (found.value.name, found.notes) == (name, (Note(f'"{typed}" read as {name}'),))


def test_a_card_with_two_dies_says_so():
    assert "two dies" in find_gpu("MI250").notes[0].text


@pytest.mark.parametrize(("typed", "words"), [("H1000", "closest: .*H100"), ("TPUv5", "TPUv5"), ("", "unknown GPU")])
def test_unknown_gpus_are_one_line(typed, words):
    with pytest.raises(InputError, match=words) as caught:
        find_gpu(typed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "gpu", "nodes", "per_node"),
    [
        ("4xA100", "A100-SXM-80GB", 1, 4),
        ("A100:4", "A100-SXM-80GB", 1, 4),
        ("A100 x 4", "A100-SXM-80GB", 1, 4),
        ("H100x4", "H100-SXM", 1, 4),
        ("RTX4090", "RTX 4090", 1, 1),
        ("A100-80GB:4", "A100-SXM-80GB", 1, 4),
        ("8xH100-80GB", "H100-SXM", 1, 8),
        ("2x8xH100", "H100-SXM", 2, 8),
        ("2 x 8 x H100", "H100-SXM", 2, 8),
        ("H100", "H100-SXM", 1, 1),
        ("4 x A100", "A100-SXM-80GB", 1, 4),
        ("4XA100", "A100-SXM-80GB", 1, 4),
        ("4×A100", "A100-SXM-80GB", 1, 4),  # noqa: RUF001  the sign is the test
        ("4*A100", "A100-SXM-80GB", 1, 4),
        ("8 H100", "H100-SXM", 1, 8),
        ("16xH100", "H100-SXM", 2, 8),
        ("4x4090", "RTX 4090", 1, 4),
        ("2x8x4090", "RTX 4090", 2, 8),
        ("2xRTX 4090", "RTX 4090", 1, 2),
        ("NVIDIA A100-SXM4-80GB:4", "A100-SXM-80GB", 1, 4),
        ("72xGB200", "GB200", 1, 72),
        ("4xGH200", "GH200-96GB", 4, 1),
        ("  4xL4  ", "L4", 1, 4),
    ],
)
def test_clusters(text, gpu, nodes, per_node):
    cluster = parse_cluster(text).value
    assert (cluster.gpu.name, cluster.nodes, cluster.gpus_per_node) == (gpu, nodes, per_node)
    assert cluster.num_gpus == nodes * per_node


def test_a_cluster_over_several_nodes_says_so():
    assert Note("16 H100-SXM taken as 2 nodes x 8") in parse_cluster("16xH100").notes
    assert parse_cluster("2x8xH100-SXM").notes == ()
    assert "more than the usual 8" in parse_cluster("1x16xV100-SXM2-32GB").notes[0].text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0xA100", "number of GPUs is 0; it must be from 1"),
        ("-4xA100", "number of GPUs is -4"),
        ("A100:0", "number of GPUs is 0"),
        ("0x8xH100", "number of nodes is 0"),
        ("2x-8xH100", "number of GPUs is -8"),
        ("99999999999xA100", "at most|to 65536"),
        ("1000x1000xA100", "1000000"),
        ("9" * 100 + "xA100", "to 65536"),
        ("1.5xA100", "no number of GPUs"),
        ("12xH100", "use 8 or 16"),
        ("4xA1000", "unknown GPU"),
        ("4x", "no number of GPUs"),
        ("x4", "unknown GPU"),
        ("", "no GPUs named"),
        ("  ", "no GPUs named"),
        (None, "no GPUs named"),
        ("4" * 500, "500 letters"),
    ],
)
def test_bad_clusters_are_one_line(text, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_cluster(text)
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=30) | st.from_regex(r"-?\d{0,6}\s*[xX:*]?\s*-?\d{0,4}x?(A100|H100|4090|L4)?(:\d+)?"))
def test_any_text_gives_a_cluster_or_one_line(text):
    try:
        cluster = parse_cluster(text).value
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  it may as well not raise
    else:
        assert 1 <= cluster.num_gpus <= MOST_GPUS


def test_overrides():
    gpu = with_overrides(GPUS["H100-SXM"], {"memory_bandwidth_gbps": 6000, "memory_gib": "141", "gpus_per_node": "16"})
    assert gpu.name == "H100-SXM (memory_bandwidth_gbps=6000, memory_gib=141, gpus_per_node=16)"
    assert (gpu.memory_bandwidth_gbps, gpu.memory_gib, gpu.gpus_per_node) == (6000.0, 141.0, 16)
    assert gpu.fp16_tflops == GPUS["H100-SXM"].fp16_tflops
    assert with_overrides(gpu, {}) is gpu


def test_overrides_of_every_kind():
    gpu = with_overrides(GPUS["V100-SXM2-16GB"], {"bf16": "true", "topology": "nvswitch", "compute_capability": "9.0"})
    assert (gpu.bf16, gpu.topology, gpu.compute_capability) == (True, "nvswitch", "9.0")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"memory_bandwith_gbps": 6000}, "closest: memory_bandwidth_gbps"),
        ({"name": "X"}, "no 'name' to set"),
        ({"memory_gib": 0}, "memory_gib is 0"),
        ({"memory_gib": -1}, "memory_gib is -1"),
        ({"memory_gib": "nan"}, "memory_gib is nan"),
        ({"memory_gib": "inf"}, "memory_gib is inf"),
        (
            {"memory_gib": "lots"},
            "memory_gib is 'lots'; it must be a size, of GiB without a unit, such as 80, 80GB or 74.5GiB$",
        ),
        ({"memory_gib": True}, "memory_gib is 'True'; it must be a number"),
        ({"gpus_per_node": "2.5"}, "whole number"),
        ({"gpus_per_node": "1e400"}, "whole number"),
        ({"topology": "ring"}, "'nvswitch', 'mesh'"),
        ({"bf16": "maybe"}, "true or false"),
        ({"nvlink_gbps": 0}, "needs nvlink_gbps above 0"),
    ],
)
def test_bad_overrides_are_one_line(overrides, words):
    with pytest.raises(InputError, match=words) as caught:
        with_overrides(GPUS["H100-SXM"], overrides)
    assert "\n" not in str(caught.value)


def test_cluster_overrides():
    cluster = parse_cluster("4xH100", {"memory_bandwidth_gbps": "6000", "network_gbps": "25"}).value
    assert cluster.gpu.memory_bandwidth_gbps == 6000
    assert cluster.network_gbps == 25
    assert parse_cluster("16xH100", {"gpus_per_node": 16}).value.nodes == 1
    with pytest.raises(InputError, match="network_gbps"):
        parse_cluster("4xH100", {"network_gbps": "-1"})
