"""Pipeline stages against brute force, and which part of a model each process holds."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.engines.torch_layout import ProcessLayout, has_experts, lay_out, weight_costs
from catalog.engines.torch_stages import balanced_stages
from catalog.errors import InputError
from catalog.models.find import find_model

COSTS = st.lists(st.integers(0, 50), min_size=1, max_size=9)


def every_partition(layers, stages):
    for cuts in combinations(range(1, layers), stages - 1):
        ends = (0, *cuts, layers)
        yield tuple(range(begin, end) for begin, end in pairwise(ends))


@given(COSTS, st.integers(1, 5), st.integers(0, 60), st.integers(0, 60))
def test_stages_are_as_good_as_the_best_partition(costs, stages, first, last):
    stages = min(stages, len(costs))

    def judged(partition):
        sums = [sum(costs[layer] for layer in stage) for stage in partition]
        sums[0] += first
        sums[-1] += last
        return max(sums), sum(each**2 for each in sums)

    found = balanced_stages(costs, stages, first=first, last=last)
    assert [layer for stage in found for layer in stage] == list(range(len(costs)))
    assert min(map(len, found)) >= 1
    assert judged(found) == min(map(judged, every_partition(len(costs), stages)))


def test_equal_layers_are_spread_evenly_and_a_heavy_head_takes_some():
    assert [len(stage) for stage in balanced_stages([1.0] * 32, 4)] == [8] * 4
    assert sorted(len(stage) for stage in balanced_stages([0.1] * 10, 4)) == [2, 2, 3, 3]
    assert [len(stage) for stage in balanced_stages([1.0] * 32, 2, last=4.0)] == [18, 14]


@pytest.mark.parametrize(("costs", "stages"), [([1.0] * 3, 4), ([1.0], 0), ([1.0, -1.0], 1)])
def test_impossible_stages_are_refused(costs, stages):
    with pytest.raises(InputError, match=r"it must be"):
        balanced_stages(costs, stages)


def test_the_head_of_llama_3_counts_as_much_as_two_layers():
    model = find_model("meta-llama/Llama-3.1-8B").value
    costs = weight_costs(model)
    assert len(costs) == 33
    assert 2 < costs[-1] / costs[0] < 3
    assert [len(stage) for stage in lay_out(model, tp=1, pp=2, rank=0).stages] == [17, 15]
    assert [len(stage) for stage in lay_out(model, tp=1, pp=2, rank=0, costs=[1.0] * 32 + [0.0]).stages] == [16, 16]


def test_only_the_experts_that_a_token_meets_cost():
    model = find_model("Qwen/Qwen3-30B-A3B").value
    # 30.5 billion parameters, 3.3 billion active (its model card), with an embedding of 0.3 that costs nothing
    assert sum(weight_costs(model)) == pytest.approx(3.3e9 - 0.3e9, rel=0.05)
    assert has_experts(model, 0)
    assert not has_experts(find_model("meta-llama/Llama-3.1-8B").value, 0)


def test_shares_cover_everything_once_and_few_kv_heads_are_replicated():
    processes = [ProcessLayout(tp=4, stages=(range(3),), rank=rank) for rank in range(4)]
    assert [each.share(8) for each in processes] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [each.kv_share(8) for each in processes] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [each.kv_share(2) for each in processes] == [(0, 1), (0, 1), (1, 2), (1, 2)]
    assert [each.vocabulary_share(10) for each in processes] == [(0, 3, 3), (3, 6, 3), (6, 9, 3), (9, 10, 3)]
    assert ProcessLayout(tp=4, stages=(range(3),), rank=3).vocabulary_share(5) == (5, 5, 2)


def test_neighbouring_ranks_are_slices_of_one_stage():
    model = find_model("meta-llama/Llama-3.1-8B").value
    places = [lay_out(model, tp=2, pp=2, rank=rank) for rank in range(4)]
    assert [(each.stage, each.tp_rank) for each in places] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [(each.is_first, each.is_last) for each in places] == [(True, False)] * 2 + [(False, True)] * 2
    assert [each.layers for each in places] == [range(17)] * 2 + [range(17, 32)] * 2
