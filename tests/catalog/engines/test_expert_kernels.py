"""Which experts vLLM's kernel has tuned tile sizes for, and what that changes."""

import numpy as np
import pytest

from advisor.perf_model.deployment_arrays import DeploymentArrays
from catalog.engines.expert_kernels import has_untuned_experts, tuned_experts
from catalog.gpus import find_gpu
from catalog.models.find import find_model

H200, B200 = (find_gpu(name).value for name in ("H200", "B200"))


def untuned(model, gpu=H200, **columns):
    columns = {"engine": "vllm"} | columns
    return DeploymentArrays.from_columns(columns, find_model(model).value, gpu).untuned.tolist()


def test_slices_and_shares_of_experts_have_tables_of_their_own():
    assert untuned("Qwen/Qwen3-30B-A3B", tp=[1, 2, 4, 8, 16]) == [0, 0, 0, 0, 1]
    assert untuned("Qwen/Qwen3-30B-A3B", tp=[1, 2], ep=[1, 2]) == [0, 1]


def test_blocks_of_scales_are_another_table():
    assert untuned("Qwen/Qwen3-30B-A3B-FP8") == [0]
    assert untuned("Qwen/Qwen3-30B-A3B", dtype=["fp8"]) == [1]
    assert untuned("inclusionAI/Ling-mini-2.0") == [1]
    assert untuned("inclusionAI/Ling-mini-2.0-FP8-block") == [0]


@pytest.mark.parametrize(
    ("model", "gpu", "engine"),
    [
        ("llama-3.1-8b", H200, "vllm"),
        ("inclusionAI/Ling-mini-2.0", B200, "vllm"),
        ("inclusionAI/Ling-mini-2.0", H200, "sglang"),
        ("openai/gpt-oss-20b", H200, "vllm"),
    ],
)
def test_other_kernels_need_no_table(model, gpu, engine):
    assert untuned(model, gpu, engine=engine) == [0]


def test_members_of_the_h200_family_share_tables():
    nvl = find_gpu("H200-NVL").value
    assert not has_untuned_experts("vllm", nvl, "16 bits", 128, 768)
    assert np.all([gpu != nvl.name for gpu, *_ in tuned_experts()])
