from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.engines import check_layout, resolve
from catalog.errors import InputError
from catalog.schema import Deployment
from search.parallelism import Parallelism, most_replicas, parallelisms
from tests.search.serving import cluster, model

MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 14336}
clusters = st.builds(cluster, st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(1, 3))
models = st.builds(
    model,
    num_hidden_layers=st.integers(1, 12),
    num_attention_heads=st.sampled_from([12, 16, 40, 64]),
    num_key_value_heads=st.sampled_from([4, 8]),
    num_experts=st.sampled_from([0, 8]),
    moe_intermediate_size=st.just(14336),
).filter(lambda made: made.num_attention_heads % made.num_key_value_heads == 0)


@given(models, clusters, st.sampled_from(["none", "tp", "all"]), st.booleans())
def test_every_layout_is_one_the_engine_starts(made, gpus, experts, across):
    found = list(parallelisms(made, gpus, expert_parallel=experts, tp_across_nodes=across))
    assert len(found) == len(set(found))
    assert found == sorted(found)
    for layout in found:
        check_layout(made, tp=layout.tp, pp=layout.pp, dp=layout.dp, ep=layout.ep)
        assert layout.num_gpus <= gpus.num_gpus
        assert layout.pp <= made.num_hidden_layers
        assert made.num_attention_heads % layout.tp == 0
        deployment = Deployment(tp=layout.tp, pp=layout.pp, dp=layout.dp, ep=layout.ep)
        assert resolve(deployment, made, gpus).value.num_gpus == layout.num_gpus


@given(models, clusters)
def test_on_one_node_nothing_the_engine_starts_is_missing(made, gpus):
    count = gpus.gpus_per_node
    found = set(parallelisms(made, cluster(count), expert_parallel="all"))
    for tp in range(1, count + 1):
        for pp in range(1, count // tp + 1):
            for dp in range(1, count // (tp * pp) + 1):
                for ep in {1, tp, tp * dp}:
                    layout = Parallelism(tp=tp, pp=pp, dp=dp, ep=ep)
                    try:
                        check_layout(made, tp=tp, pp=pp, dp=dp, ep=ep)
                    except InputError:
                        assert layout not in found
                    else:
                        assert layout in found


def test_replicas_of_any_number_fill_the_cluster():
    dps = {layout.dp for layout in parallelisms(model(), cluster(7), tps=[1], max_pp=1)}
    assert dps == {1, 2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(
    ("per_node", "nodes", "tp", "pp", "replicas"),
    [
        (8, 1, 1, 1, 8),
        (8, 2, 1, 3, 4),  # two of three GPUs a node, none across
        (8, 2, 8, 2, 1),
        (8, 4, 4, 4, 2),  # two nodes each
        (8, 2, 4, 3, 0),  # one node and a half
        (8, 3, 6, 4, 0),  # a group of six would straddle nodes
        (8, 2, 16, 1, 1),
        (6, 2, 4, 1, 2),
        (4, 1, 8, 1, 0),
    ],
)
def test_replicas_are_packed_in_whole_nodes(per_node, nodes, tp, pp, replicas):
    assert most_replicas(cluster(per_node, nodes), tp=tp, pp=pp) == replicas


def test_tp_crosses_nodes_only_without_another_way():
    two = cluster(8, 2)

    def widest(**options):
        return max(layout.tp for layout in parallelisms(model(), two, **options))

    assert widest() == 8
    assert widest(fits=lambda tp, pp: tp * pp >= 16) == 8  # tp 8 x pp 2 fits
    assert widest(fits=lambda tp, _: tp >= 16) == 16
    assert widest(tp_across_nodes=True) == 16


def test_only_the_tp_degrees_asked_for_are_offered():
    assert {layout.tp for layout in parallelisms(model(), cluster(8), tps=[4, 2, 3, 4])} == {2, 4}


def test_experts_are_spread_as_asked():
    moe = model(**MOE)

    def eps(made, experts):
        found = parallelisms(made, cluster(8), tps=[4], max_pp=1, expert_parallel=experts)
        return {(layout.dp, layout.ep) for layout in found}

    assert eps(moe, "none") == {(1, 1), (2, 1)}
    assert eps(moe, "tp") == {(1, 1), (2, 1), (1, 4), (2, 4)}
    assert eps(moe, "all") == {(1, 1), (2, 1), (1, 4), (2, 4), (2, 8)}
    assert eps(model(), "all") == {(1, 1), (2, 1)}


def test_whole_experts_allow_degrees_that_do_not_divide_their_width():
    narrow = model(**MOE | {"moe_intermediate_size": 1001})
    found = set(parallelisms(narrow, cluster(2), max_pp=1))
    assert Parallelism(tp=2, ep=2) in found
    assert Parallelism(tp=2, ep=1) not in found


@pytest.mark.parametrize("options", [{"tps": [0]}, {"tps": [-2]}, {"max_pp": 0}, {"tps": [1.5]}])
def test_degrees_below_one_are_refused(options):
    with pytest.raises(InputError, match="above 0"):
        list(parallelisms(model(), cluster(8), **options))
