from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search
from catalog.errors import InputError
from search.space import CHUNK, Axis, Space, batch_sizes
from tests.search.serving import deployments

numbers = st.lists(st.integers(1, 50), min_size=1, max_size=6)
texts = st.lists(st.sampled_from(["auto", "fp8", "int4", "bfloat16"]), min_size=1, max_size=4)


def knobs():
    return Space((Axis.of("tp", [1, 2, 4]), Axis.of("dtype", ["auto", "fp8"]), Axis.of("compiled", [True, False])))


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("search.space, search.pareto, search.parallelism, search.scores", "optuna"),
        ("search.study", "sqlalchemy"),  # longer than Optuna itself, for those who keep nothing
    ],
)
def test_slow_imports_wait_until_they_are_needed(modules, heavy):
    code = f"import sys, {modules}; sys.exit({heavy!r} in sys.modules)"
    home = Path(search.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=home, check=False).returncode == 0


@given(numbers, texts, numbers)
def test_columns_are_every_combination_in_order_that_the_rule_allows(batches, dtypes, chunks):
    space = Space(
        (Axis.of("batch", batches), Axis.of("dtype", dtypes), Axis.of("chunk", chunks)),
        rules=(lambda columns: columns["chunk"] >= columns["batch"],),
    )
    expected = [
        {"batch": batch, "dtype": dtype, "chunk": chunk}
        for batch, dtype, chunk in itertools.product(*(dict.fromkeys(options) for options in (batches, dtypes, chunks)))
        if chunk >= batch
    ]
    assert space.records(space.columns()) == expected
    assert space.size == len(set(batches)) * len(set(dtypes)) * len(set(chunks))


@given(st.integers(1, 40))
def test_chunks_of_any_size_give_the_same_points(most):
    space = Space((Axis.of("a", range(5)), Axis.of("b", range(7))), rules=(lambda columns: columns["a"] != 3,))
    points = np.concatenate([points for points, _ in space.chunks(most)])
    assert np.array_equal(points, next(space.chunks(CHUNK))[0])
    assert len(points) == 28


@given(st.data())
def test_found_points_are_the_ones_that_were_asked_for(data):
    space = deployments()
    points, columns = next(space.chunks())
    chosen = data.draw(st.lists(st.integers(0, len(points) - 1), max_size=5))
    records = space.records({name: column[chosen] for name, column in columns.items()})
    assert np.array_equal(space.find(records), points[chosen])


def test_points_that_are_not_in_the_space_are_not_found():
    space = knobs()
    allowed = {"tp": 2, "dtype": "fp8", "compiled": True}
    strangers = [allowed | {"tp": 3}, allowed | {"dtype": "int4"}, {"tp": 2, "dtype": "fp8"}]
    assert space.records(space.take(space.find([*strangers, allowed]))) == [allowed]
    assert not len(Space(space.axes, rules=(lambda columns: columns["tp"] > 2,)).find([allowed]))


def test_options_keep_their_python_types():
    record = knobs().records(knobs().columns())[0]
    assert record == {"tp": 1, "dtype": "auto", "compiled": True}
    assert [type(value) for value in record.values()] == [int, str, bool]


def test_a_crossed_axis_gives_each_row_its_own_options():
    axis = Axis.table([{"tp": 1, "dtype": "fp8"}, {"tp": 2, "dtype": "auto"}]).crossed("batch", [[1, 9], [5]])
    space = Space((axis,))
    assert space.records(space.columns()) == [
        {"tp": 1, "dtype": "fp8", "batch": 1},
        {"tp": 1, "dtype": "fp8", "batch": 9},
        {"tp": 2, "dtype": "auto", "batch": 5},
    ]


def test_no_option_is_told_with_its_name():
    with pytest.raises(InputError, match="no valid choice of dtype is left"):
        Axis.of("dtype", [])
    with pytest.raises(InputError, match="no valid choice of tp, batch is left"):
        Axis.of("tp", [1]).crossed("batch", [[]])
    with pytest.raises(InputError, match="no valid choice"):
        Axis.table([])


def test_a_name_on_two_axes_is_refused():
    with pytest.raises(ValueError, match="more than one axis"):
        Space((Axis.of("tp", [1]), Axis.of("tp", [2])))


@given(st.integers(1, 5000), st.lists(st.integers(-10, 6000), max_size=5))
def test_batch_sizes_leave_no_gap_above_an_eighth_and_hit_every_threshold(most, thresholds):
    sizes = batch_sizes(most, thresholds=thresholds)
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1
    assert sizes[-1] == most
    assert {size for size in thresholds if 1 <= size <= most} <= set(sizes)
    assert all(upper - lower <= max(1, lower / 8) for lower, upper in itertools.pairwise(sizes))
    assert len(sizes) <= 16 + 8 * most.bit_length() + len(thresholds)


@pytest.mark.parametrize("most", [0, -1, 2.5])
def test_impossible_largest_batches_are_refused(most):
    with pytest.raises(InputError, match="batch"):
        batch_sizes(most)
