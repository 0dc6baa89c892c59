"""KV blocks of requests, as vLLM's manager hands them out."""

import numpy as np
import pytest

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.kv_capacity import blocks_of_request
from catalog.engines import resolve
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.schema import Deployment


@pytest.mark.parametrize(
    ("name", "tokens", "blocks"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", 1, 1),
        ("meta-llama/Meta-Llama-3.1-8B", 16, 1),
        ("meta-llama/Meta-Llama-3.1-8B", 17, 2),
        # 1 group of everything and 6 of min(1023 + 2048, tokens), each one block more for a window that starts within one
        ("google/gemma-3-27b-it", 16384, 1024 + 6 * (192 + 1)),
        ("google/gemma-3-27b-it", 100, 7 + 6 * (7 + 1)),
    ],
)
def test_blocks_of_a_request(name, tokens, blocks):
    model, cluster = find_model(name).value, parse_cluster("1xH100").value
    deployment = resolve(Deployment(max_num_batched_tokens=2048), model, cluster).value
    layout = DeploymentArrays.of([deployment], model, cluster.gpu)
    assert blocks_of_request(model, np.array([float(tokens)]), layout) == blocks
