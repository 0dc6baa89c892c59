"""The Triton kernels against plain PyTorch: on a GPU where there is one, else in Triton's interpreter."""

import os

import pytest

torch = pytest.importorskip("torch")
GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined
pytest.importorskip("triton")

from probes.torch_engine.fused_kernels import LayerKernels  # noqa: E402
from probes.torch_engine.triton_kernels import BLOCK, attend_used, place_heads, split_count  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
CLOSE = {"rtol": 2e-3, "atol": 2e-3} if GPU else {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


def plain_attention(q, keys, values, used, window):
    mixed = []
    for row, end in enumerate(used.tolist()):
        begin = max(0, end - window) if window else 0
        group = q.shape[1] // keys.shape[2]
        k, v = (each[row, begin:end].repeat_interleave(group, dim=1).transpose(0, 1) for each in (keys, values))
        scores = (q[row, :, None] @ k.mT) / q.shape[-1] ** 0.5
        mixed.append((scores.softmax(dim=-1) @ v)[:, 0])
    return torch.stack(mixed)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (8, 2), (5, 1)])
def test_attention_reads_what_is_used_of_each_cache(heads, kv_heads, window, splits):
    lengths = torch.tensor([1, BLOCK, 3 * BLOCK + 7], dtype=torch.int32, device=DEVICE)
    memory = torch.randn(2, 3, 4 * BLOCK, kv_heads, 32, device=DEVICE)
    memory[:, 0, 1:] = 1e4  # what lies beyond must not be seen
    q = torch.randn(3, heads, 32, device=DEVICE)
    found = attend_used(q, memory[0], memory[1], lengths, window, splits)
    torch.testing.assert_close(found, plain_attention(q, *memory, lengths, window), **CLOSE)


@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize(("rows", "length", "heads", "kv_heads"), [(3, 1, 4, 2), (2, 5, 9, 3)])
def test_heads_are_placed_as_pytorch_places_them(rows, length, heads, kv_heads, normed):
    joined = torch.randn(rows, length, heads + 2 * kv_heads, 16, device=DEVICE)
    norms = tuple(torch.rand(2, 16, device=DEVICE)) if normed else None
    angles = torch.rand(length, 1, 8, device=DEVICE)
    positions = torch.arange(3, 3 + length, device=DEVICE)
    seen = []
    for function in (LayerKernels().place_heads, place_heads):
        memory = torch.zeros(rows, 2, 10, kv_heads, 16, device=DEVICE)
        kept = memory[:, 0], memory[:, 1]  # rows that lie apart, as in a cache of several layers
        q = function(joined, norms, 1e-5, (angles.cos(), angles.sin()), positions, kept)
        seen.append((q, memory))
    (q, memory), (fused_q, fused_memory) = seen
    torch.testing.assert_close(fused_q, q, **CLOSE)
    torch.testing.assert_close(fused_memory, memory, **CLOSE)


def test_few_sequences_are_split_and_many_are_not():
    assert split_count(1, 8192, 132) == 128
    assert split_count(8, 8192, 132) == 32
    assert split_count(8, 512, 132) == 8
    assert split_count(200, 8192, 132) == 1
    assert split_count(8, 1, 132) == 1
