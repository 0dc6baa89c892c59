"""What processes send each other, counted; and which sums take the short way between GPUs."""

import pytest

pytest.importorskip("torch")

import torch

from catalog.engines.torch_layout import ProcessLayout
from probes.torch_engine.links import Links, LinkTraffic
from probes.torch_engine.symmetric_memory import ONE_SHOT, TWO_SHOTS, SymmetricSums


class FakeSums:
    """Stands in for GPUs that read each other's memory: doubles, as two equal processes would."""

    def __init__(self, size, dtype=torch.float32):
        self.size, self._buffer = size, torch.empty(0, dtype=dtype)

    takes, in_one_shot = SymmetricSums.takes, SymmetricSums.in_one_shot

    def sum(self, tensor):
        return tensor * self.size


def links(size):
    made = Links(ProcessLayout(tp=1, stages=(range(2),), rank=0))
    made._stage, made._sums = object(), FakeSums(size)
    return made


@pytest.mark.parametrize("size", [2, 4])
def test_small_sums_take_one_shot_and_larger_ones_two(size):
    made = links(size)
    small, large = torch.ones(64), torch.ones(ONE_SHOT[size] // 4 + 64)
    assert torch.equal(made.all_reduce(small), size * small)
    assert made.traffic.sent_bytes(size) == (size - 1) * 256  # every other process reads all of it
    made.traffic.restore(LinkTraffic())
    assert torch.equal(made.all_reduce(large), size * large)
    assert made.traffic.sent_bytes(size) == pytest.approx(2 * (size - 1) / size * large.nbytes)


def test_what_the_kernels_cannot_read_is_left_to_nccl():
    sums = FakeSums(4)
    assert sums.takes(torch.empty(16))
    assert not sums.takes(torch.empty(15))
    assert not sums.takes(torch.empty(16, dtype=torch.float16))
    assert not sums.takes(torch.empty(TWO_SHOTS // 4 + 16))


def test_alone_nothing_is_sent():
    made = Links(ProcessLayout(tp=1, stages=(range(2),), rank=0))
    tensor = torch.ones(3)
    assert made.all_reduce(tensor) is tensor
    assert not made.traffic.calls
