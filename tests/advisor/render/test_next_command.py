"""The command that an answer proposes means the hardware that was asked about."""

import shlex

import pytest

from advisor.render.console import command_lines
from advisor.render.document import ShellCommand
from advisor.render.next_command import gpu_words
from catalog.gpus import parse_cluster


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory_bandwidth_gbps": "6000"},
        {"memory_gib": "100", "topology": "pcie"},
        {"network_gbps": "25", "leaf_nodes": "1", "oversubscription": "4", "memory_gib": "100"},
    ],
)
@pytest.mark.parametrize("gpus", ["4xA100-SXM-80GB", "2x8xH100-SXM", "2xRTX 4090"])
def test_the_words_of_gpus_are_read_as_the_same_gpus(gpus, changes):
    cluster = parse_cluster(gpus, changes).value
    option, text, *more = gpu_words(cluster)
    assert option == "--gpus"
    assert more[::2] == ["--set-gpu"] * (len(more) // 2)
    assert parse_cluster(text, dict(pair.split("=") for pair in more[1::2])).value == cluster


@pytest.mark.parametrize("width", range(30, 120, 7))
def test_a_command_is_broken_so_that_a_shell_still_reads_it(width):
    argv = ["vllm", "serve", "meta-llama/Meta-Llama-3.1-8B", "--max-num-batched-tokens", "8192", "--dtype", "bfloat16"]
    lines = command_lines(ShellCommand(argv=argv), width)
    assert all(len(line) <= width for line in lines) or width < len(argv[2]) + 4
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == argv
    assert all(line.endswith(" \\") for line in lines[:-1])
