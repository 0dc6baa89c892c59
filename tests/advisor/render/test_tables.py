"""Text of answers: numbers, tables that fit, commands that can be copied, formats that parse."""

import csv
import io
import json
import math
import shlex

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from advisor.render.console import command_lines, drawn, header, labelled
from advisor.render.document import ShellCommand, Table
from advisor.render.formats import as_csv, as_json, as_yaml
from advisor.render.lines import cost_line, hardware, memory_line, notes
from advisor.render.numbers import change, count, dollars, duration, limit, short, span, unit_of
from advisor.render.tables import Column, FlatRows, fitted, markdown
from catalog.errors import Note
from catalog.gpus import parse_cluster
from catalog.schema import Price


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (803.4, "803"),
        (73.84, "73.8"),
        (0.1181, "0.118"),
        (1.0, "1.00"),
        (12345.0, "12300"),
        (0, "0"),
        (9.996, "10.0"),
        (999.6, "1000"),
        (0.09996, "0.100"),
        (1e-7, "0.000000100"),
        (-4.567, "-4.57"),
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "-"),
        (2.5e9, "2500000000"),
    ],
)
def test_three_significant_digits(value, text):
    assert short(value) == text


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_a_short_number_is_near_and_has_no_exponent(value):
    text = short(value)
    assert float(text) == pytest.approx(value, rel=0.0051)
    assert "e" not in text


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (803.4, "803 ms"),
        (9994.0, "9990 ms"),
        (9996.0, "10.0 s"),
        (47_300.0, "47.3 s"),
        (3.6e6, "3600 s"),
        (None, "- ms"),
    ],
)
def test_long_times_are_told_in_seconds(ms, text):
    assert duration(ms) == text


def test_times_beside_each_other_have_one_unit():
    assert duration(47_300.0, (9_000.0, 58_900.0)) == "47.3 (9.00-58.9) s"
    assert duration(900.0, (700.0, 12_000.0)) == "900 (700-12000) ms"
    assert change(33.04, 26.9) == "33.0 to 26.9 ms"
    assert change(10_200.0, 7_620.0) == "10.2 to 7.62 s"
    assert (limit(300.0), limit(47_250.0)) == ("300 ms", "47.25 s")
    assert unit_of([]).name == unit_of([None, math.nan, math.inf, 9_000.0]).name == "ms"
    column = FlatRows([{"e2e_ms": value} for value in (900.0, None, 47_300.0)]).time("e2e_ms", "E2E", of="p95")
    assert (column.unit, column.cells) == ("p95 s", ["0.900", "-", "47.3"])
    alone = FlatRows([{"e2e_ms": 900.0}]).time("e2e_ms", "E2E")
    assert (alone.unit, alone.cells) == ("ms", ["900"])


def test_other_numbers():
    assert count(13.02e9) == "13.0 B"
    assert count(124e6) == "124 M"
    assert count(1.03e12) == "1.03 T"
    assert count(950.0) == "950"
    assert dollars(0.3713) == "$0.371"
    assert dollars(None) == "-"
    assert span(539.9, 1093.8) == "(540-1090)"


# -- tables ----------------------------------------------------------------------------------------------------------


def columns(*ranks):
    return [Column(name=f"column {i}", narrow=f"c{i}", cells=["1", "22"], rank=rank) for i, rank in enumerate(ranks)]


def shown(renderable, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_names_are_shortened_before_a_column_is_left_out():
    kept, gap, narrow = fitted(columns(0, 0, 3), 3 * 8 + 2 * 2)
    assert (len(kept), gap, narrow) == (3, 2, False)
    kept, gap, narrow = fitted(columns(0, 0, 3), 3 * 2 + 2 * 2)
    assert (len(kept), gap, narrow) == (3, 2, True)


def test_the_least_important_column_goes_first():
    kept, _, _ = fitted(columns(0, 9, 5, 0), 3 * 8 + 2 * 2)
    assert [column.rank for column in kept] == [0, 5, 0]
    kept, _, _ = fitted(columns(0, 9, 5, 0), 2 * 8 + 2)
    assert [column.rank for column in kept] == [0, 0]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 120))
def test_essential_columns_always_stay(ranks, width):
    kept, gap, narrow = fitted(columns(*ranks), width)
    assert [column for column in kept if column.rank == 0] == [column for column in columns(*ranks) if column.rank == 0]
    if kept and any(column.rank for column in kept):
        assert sum(column.width(narrow=narrow) for column in kept) + gap * (len(kept) - 1) <= width


def test_a_table_is_as_wide_as_it_says_and_nothing_is_cut():
    table = drawn(Table(columns=columns(0, 0, 0)), None)
    lines = shown(table, 200).splitlines()
    assert lines[0] == "column 0  column 1  column 2"
    assert table.min_width == len(lines[0])
    assert lines[2].split() == ["22", "22", "22"]


def test_units_stand_below_names():
    lines = shown(drawn(Table(columns=[Column(name="TTFT", unit="ms", cells=["7"])]), None), 40).splitlines()
    assert [line.strip() for line in lines] == ["TTFT", "ms", "7"]


def test_a_table_without_rows_is_its_heading():
    empty = [Column(name="GPU", cells=[])]
    assert shown(drawn(Table(columns=empty), 80), 80).strip() == "GPU"
    assert markdown(empty) == "| GPU |\n| ---: |\n"


def test_a_pipe_table_survives_pipes_and_newlines():
    text = markdown([Column(name="model", unit="id", cells=["a|b\nc"], right=False), Column(name="", cells=[">"])])
    assert text == "| model (id) |\n| :--- |\n| a\\|b c |\n"


# -- lines -----------------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)


@pytest.mark.slow
@given(
    st.lists(WORDS, min_size=1, max_size=12),
    st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), WORDS),
    st.integers(20, 100),
)
def test_a_broken_command_is_the_same_command(argv, variables, width):
    lines = command_lines(ShellCommand(argv=argv, variables=variables), width)
    joined = "\n".join(lines).replace(" \\\n", "\n ") if len(lines) > 1 else lines[0]
    assert shlex.split(joined) == [f"{name}={value}" for name, value in variables.items()] + argv


def test_a_command_is_broken_before_options():
    lines = command_lines(
        ShellCommand(argv=["vllm", "serve", "x/y", "--tensor-parallel-size", "2", "--port", "8000"]), 40
    )
    assert lines == ["vllm serve x/y \\", "  --tensor-parallel-size 2 --port 8000"]
    assert command_lines(ShellCommand(argv=["vllm", "serve"]), 40) == ["vllm serve"]


def test_labels_stand_once_and_text_is_wrapped_beside_them():
    text = shown(labelled([("why", ["one " * 20, "two"]), ("limit", []), ("next", ["three"])]), 40)
    lines = text.splitlines()
    assert lines[0].startswith("why      one one")
    assert all(line.startswith(" " * 9) for line in lines[1:-1])
    assert lines[-1].rstrip() == "next     three"
    assert max(map(len, lines)) <= 40


def test_a_header_breaks_between_its_parts():
    text = str(header(["a" * 20, "b" * 20, "c" * 20], 50))
    assert text.split("\n") == [f"{'a' * 20}  |  {'b' * 20}", "c" * 20]


def test_hardware_says_what_joins_it():
    said = {
        "A100": "1 x A100-SXM-80GB",
        "4xA100": "4 x A100-SXM-80GB  NVLink",
        "2x8xH100": "2 nodes x 8 x H100-SXM  NVLink, 50 GB/s network",
        "4xL40S": "4 x L40S  PCIe",
        "8xMI300X": "8 x MI300X  xGMI mesh",
    }
    for gpus, text in said.items():
        assert hardware(parse_cluster(gpus).value) == text


def test_memory_names_its_parts():
    memory = {
        "weights": 12.12,
        "kv_cache": 58.5,
        "activations": 0.118,
        "engine": 0.55,
        "reserved": 7.92,
        "device": 79.2,
    }
    assert memory_line(memory) == (
        "weights 12.1 | KV cache 58.5 | activations 0.118 | engine 0.550 | left free 7.92, of 79.2 GiB a GPU"
    )


def test_a_price_says_whose_it_is():
    offer = Price(gpu="A100", usd_per_gpu_hour=1.5, provider="Lambda", instance="gpu_1x", as_of="2026-01")
    assert cost_line(0.37, offer) == (
        "$0.370 per million output tokens at $1.5 per GPU-hour: Lambda gpu_1x (on-demand, 2026-01)"
    )
    assert cost_line(None, offer) == ""
    assert "no offer" in cost_line(0.37, Price(gpu="A100", usd_per_gpu_hour=3.5, provider="x", illustrative=True))


def test_notes_come_before_warnings_and_once():
    found = notes(
        [Note("no kernels", "warning"), Note("a name"), Note("a name"), Note("no command: no kernels", "warning")]
    )
    assert found == [("note", ["a name"]), ("warning", ["no command: no kernels"])]


# -- formats ---------------------------------------------------------------------------------------------------------

BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(BODIES)
def test_json_is_valid_whatever_is_in_it(body):
    def refuse(name):
        raise AssertionError(name)

    json.loads(as_json(body), parse_constant=refuse)


def test_what_is_no_number_is_null():
    body = {"a": math.nan, "b": [math.inf, 1.5], "c": (1, 2)}
    assert json.loads(as_json(body)) == {"a": None, "b": [None, 1.5], "c": [1, 2]}
    assert yaml.safe_load(as_yaml(body)) == {"a": None, "b": [None, 1.5], "c": [1, 2]}


def test_csv_has_all_columns_and_empty_cells():
    text = as_csv([{"a": 1, "b": None}, {"a": math.inf, "c": 'x,"y"'}])
    assert list(csv.DictReader(io.StringIO(text))) == [{"a": "1", "b": "", "c": ""}, {"a": "", "b": "", "c": 'x,"y"'}]


def test_a_name_in_a_cell_is_no_image_link_or_tag():
    text = markdown(
        [Column(name="model", cells=["![x](http://127.0.0.1/leak.png)", "<img src=x>", "`a`"], right=False)]
    )
    assert "![" not in text
    assert "<img" not in text
    assert "| !\\[x\\](http://127.0.0.1/leak.png) |" in text
