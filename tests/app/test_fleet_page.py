"""The page Fleet without a browser: tables and files become a fleet's question, links hold it, and its plan is shown."""

import json

import pytest
import yaml

import advisor
from app.editable_tables import rows_of, table_of
from app.fleet_question import EXAMPLES, START, TABLES
from app.links import packed
from tests.app.questions import SMALL_FLEET


def test_nothing_is_planned_before_it_is_asked(page):
    test = page("fleet")
    assert not test.exception
    assert "can be cancelled" in test.info[0].value
    assert not test.button("plan").disabled
    assert "fleet" not in test.query_params


@pytest.mark.parametrize("question", [START, *EXAMPLES.values(), SMALL_FLEET])
def test_tables_hold_a_question_as_it_is(question):
    for rows in (question["models"], question["pools"]):
        there = rows_of(table_of(rows, ("model", "curve")))
        assert [{k: v for k, v in row.items() if k != "curve"} for row in there] == [
            {k: v for k, v in row.items() if k != "curve"} for row in rows
        ]
        assert [row.get("curve") for row in there] == [row.get("curve") for row in rows]


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_link_is_planned_as_advisor_does(page):
    test = page("fleet", fleet=packed(SMALL_FLEET), planned="1")
    expected = advisor.plan_fleet(SMALL_FLEET)
    assert not test.error
    table = test.dataframe[-1]
    assert len(table.value) == len(expected.placements)
    assert f"${expected.usd_per_month:,.0f} a month" in " ".join(each.value for each in test.markdown).replace("\\", "")


def test_a_link_s_broken_fleet_is_said(page):
    test = page("fleet", fleet="no fleet")
    assert not test.exception
    assert "the fleet of the link cannot be read" in test.error[0].value.replace("\\", "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff", "cannot be read as YAML"),
        (b"models: [", "cannot be read as YAML"),
        (b"models: 3", "must have models and pools"),
        (b"models: &a [x]\npools: *a", "aliases"),
        (json.dumps({"models": [1], "pools": []}).encode(), "each a list of tables"),
    ],
)
def test_what_is_no_fleet_is_refused_in_one_line(data, message):
    with pytest.raises(advisor.InputError, match=message) as refusal:
        TABLES.read(data, "fleet.yaml")
    assert "\n" not in str(refusal.value)


def test_a_file_of_the_command_is_read():
    assert TABLES.read(yaml.safe_dump(SMALL_FLEET).encode(), "fleet.yaml") == SMALL_FLEET


def test_a_curve_is_a_list_of_numbers():
    frame = table_of([{"model": "m", "curve": "1, two"}], ("model", "curve"))
    with pytest.raises(advisor.InputError, match="numbers with commas between"):
        rows_of(frame)
