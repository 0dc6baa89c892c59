"""Traffic: arrivals and lengths are what was asked for, and traces are read as they are or refused in one line."""

import json

import numpy as np
import pandas as pd
import pytest

from advisor.simulator import trace_files as serving_traces
from advisor.simulator.arrivals import closed_loop, open_loop
from advisor.simulator.trace_files import TraceFile, read_trace
from catalog.errors import InputError
from catalog.schema import Workload

LONGEST = 8192


def opened(**given):
    rate = given.pop("rate", 20.0)
    return open_loop(
        Workload(rate=rate, input_len=500, output_len=100), **{"duration_s": 2000.0, "longest": LONGEST} | given
    )


@pytest.mark.parametrize("burstiness", [0.0, 0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_the_variance_asked_for(burstiness):
    found = opened(burstiness=burstiness)
    gaps = np.diff(found.arrival_s)
    assert len(found) == pytest.approx(40_000, rel=0.04)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(burstiness, rel=0.1, abs=1e-9)
    assert (gaps >= 0).all()
    assert found.arrival_s[-1] < 2000.0


def test_a_curve_moves_arrivals_and_keeps_their_number():
    found = opened(curve=[1, 0, 3])
    parts = np.histogram(found.arrival_s, bins=[0, 2000 / 3, 4000 / 3, 2000])[0]
    assert parts[1] == 0
    assert parts[2] / parts[0] == pytest.approx(3.0, rel=0.05)
    assert len(found) == len(opened())


def test_lengths_spread_as_asked():
    alike, spread = opened(), opened(spread=0.5)
    assert set(alike.input_len) == {500}
    assert spread.input_len.std() / spread.input_len.mean() == pytest.approx(0.5, rel=0.05)
    assert spread.output_len.mean() == pytest.approx(100, rel=0.02)
    assert abs(np.corrcoef(spread.input_len, spread.output_len)[0, 1]) < 0.02


def test_a_seed_says_it_all():
    assert np.array_equal(opened(seed=3).arrival_s, opened(seed=3).arrival_s)
    assert not np.array_equal(opened(seed=3).arrival_s, opened(seed=4).arrival_s)


def test_a_closed_loop_begins_as_if_in_the_middle():
    found = closed_loop(Workload(concurrency=200, input_len=500, output_len=100), duration_s=10.0, longest=LONGEST)
    assert found.output_len[:200].mean() == pytest.approx(50, abs=8)
    assert set(found.output_len[200:]) == {100}
    assert found.rate is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0.0}, "rate is 0.0; it must be a number above 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate": 1e9}, "a simulation takes from 1 to"),
        ({"duration_s": -1.0}, "duration is -1.0"),
        ({"burstiness": -1.0}, "burstiness is -1; it must be from 0"),
        ({"spread": 4.0}, "spread is 4"),
        ({"curve": [0, 0]}, "the curve of the rate must be numbers"),
        ({"curve": [1, float("nan")]}, "the curve of the rate must be numbers"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        opened(**given)


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319569,110,27
2023-11-16 18:17:05.9799600,3180,8
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 47]}
"""


def test_known_traces_are_read(tmp_path):
    azure = read_trace(written(tmp_path / "azure.csv", AZURE))
    assert azure.arrival_s == pytest.approx([0.0, 0.0519969, 2.0], abs=1e-6)
    assert azure.input_len.tolist() == [4808, 110, 3180]
    assert azure.output_len.tolist() == [10, 27, 8]
    burst = read_trace(written(tmp_path / "burst.csv", BURST))
    assert burst.arrival_s.tolist() == [0.0, 113.0]
    assert burst.notes[0].text == "1 requests of burst.csv have no output token and are left out"
    mooncake = read_trace(written(tmp_path / "conversation.jsonl", MOONCAKE))
    assert mooncake.arrival_s == pytest.approx([0.0, 3.053])
    assert mooncake.output_len.tolist() == [52, 26]


def test_a_comma_at_the_end_of_every_line_and_blank_lines_are_no_values(tmp_path):
    found = read_trace(written(tmp_path / "t.csv", "time,input,output\n1,5,7,\n\n3,6,8,\n\n\n"))
    assert found.arrival_s.tolist() == [0.0, 2.0]
    assert (found.input_len.tolist(), found.output_len.tolist()) == ([5, 6], [7, 8])
    assert found.notes[0].text == "3 lines of t.csv are blank and left out"


@pytest.mark.parametrize("mark", [";", "\t"])
def test_semicolons_and_tabs_stand_between_values_too(tmp_path, mark):
    found = read_trace(written(tmp_path / "t.csv", "time,input,output\n1,5,7\n3,6,8\n".replace(",", mark)))
    assert (found.input_len.tolist(), found.output_len.tolist()) == ([5, 6], [7, 8])


def test_a_trace_is_cut_and_stretched(tmp_path):
    path = written(tmp_path / "t.csv", "time,input,output\n" + "".join(f"{i},10,5\n" for i in range(100)))
    assert len(read_trace(path, duration_s=50.0)) == 50
    assert read_trace(path).rate == pytest.approx(1.0)
    assert read_trace(path, rate=8.0).rate == pytest.approx(8.0)
    assert np.diff(read_trace(path, rate=8.0).arrival_s) == pytest.approx(1 / 8)


def test_pieces_are_read_as_one(tmp_path, monkeypatch):
    rows = pd.DataFrame({"time": np.arange(1000) / 7, "input": np.arange(1, 1001), "output": 5})
    rows.to_csv(tmp_path / "t.csv", index=False)
    whole = read_trace(tmp_path / "t.csv")
    monkeypatch.setattr(serving_traces, "PIECE", 64)
    pieces = read_trace(tmp_path / "t.csv")
    assert np.array_equal(whole.arrival_s, pieces.arrival_s)
    assert np.array_equal(whole.input_len, pieces.input_len)


def test_reading_stops_where_the_duration_ends(tmp_path, monkeypatch):
    """What comes after is not even looked at: here it would be refused."""
    monkeypatch.setattr(serving_traces, "PIECE", 10)
    good = "".join(f"{i},10,5\n" for i in range(40))
    path = written(tmp_path / "t.csv", "time,input,output\n" + good + "nonsense,10,5\n")
    assert len(read_trace(path, duration_s=15.0)) == 15
    with pytest.raises(InputError, match="line 42: time is 'nonsense'; it must be a number"):
        read_trace(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "is empty; it must have columns time, input, output"),
        ("time,input,output\n", "no line below its first, which names the columns"),
        ("0 10 5\n", "no line below its first, which names the columns"),
        ("time,input,output\n1,5,0\n", "has no request with at least one output token"),
        ("when,input,output\n1,2,3\n", "has no column for the time: one of arrival_s, time"),
        ("time,input,output\n1,2,3\n0.5,2,3\n", "line 3: it arrives before the one above it; sort the trace by time"),
        (
            "time,input,output\n1,2,3\n2,-2,3\n",
            "line 3: its input is -2; it must be a whole number of tokens from 1 to 16777216",
        ),
        ("time,input,output\n1,2,-3\n", "line 2: its output is -3; it must be a whole number of tokens from 0 to"),
        ("time,input,output\n1,2.5,3\n", "line 2: its input is 2.5; it must be a whole number"),
        ("time,input,output\n1,,3\n", "line 2: input is nan; it must be a number"),
        ("time,input,output\n1,inf,3\n", "line 2: input is inf; it must be a number"),
        ("time,input,output\nNaN,1,3\n", "line 2: time is nan; it must be a number"),
        ("time,input,output\n1,5,99999999\n", "line 2: its output is 99999999; it must be a whole number of tokens"),
        ("time,input,output\n1,5,5,9\n2,5,5,9\n", "bad.csv has rows with more values than its first line has names"),
        ("time,input,output\n1,5,5\n2,5,5,9\n", "bad.csv is no trace: .* Expected 3 fields in line 3, saw 4"),
        ("time,input,output\n-4,1,3\n", "line 2: its time is -4; it must be at least 0"),
    ],
)
def test_bad_traces_get_one_line(tmp_path, body, message):
    path = written(tmp_path / "bad.csv", body)
    with pytest.raises(InputError, match=message) as refused:
        read_trace(path)
    assert "\n" not in str(refused.value)


def test_what_is_no_trace_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the trace"):
        read_trace(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(InputError, match=r"binary.csv"):
        read_trace(tmp_path / "binary.csv")
    with pytest.raises(InputError, match=r"bad.jsonl is no trace"):
        read_trace(written(tmp_path / "bad.jsonl", "{not json}\n"))


BAILIAN = "".join(
    json.dumps({"chat_id": i, "turn": 1, "timestamp": float(i), "input_length": 521, "output_length": 132}) + "\n"
    for i in range(4)
)


@pytest.mark.parametrize(
    ("name", "text", "unit", "gap_s", "told"),
    [
        ("bailian.jsonl", BAILIAN, "auto", 1.0, "read as seconds, as in Bailian's traces"),
        ("half.jsonl", MOONCAKE.replace("30535", "30535.5"), "auto", 3053.5, "read as seconds"),
        ("mooncake.jsonl", MOONCAKE, "auto", 3.053, "read as milliseconds, as in Mooncake's traces"),
        ("mooncake.jsonl", MOONCAKE, "s", 3053.0, ""),
        ("a.csv", "timestamp_ms,prompt_tokens,completion_tokens\n0,512,128\n500,512,128\n", "auto", 0.5, ""),
        ("a.csv", "timestamp,num_prompt_tokens,num_generation_tokens\n0,5,1\n500,5,1\n", "us", 5e-4, ""),
        ("a.csv", "created,prompt_tokens,completion_tokens\n1732000000,5,1\n1732000002,5,1\n", "auto", 2.0, ""),
        ("a.csv", "time,input,output\n1732000000000,5,1\n1732000000500,5,1\n", "auto", 0.5, "read as milliseconds"),
        ("a.csv", "time,input,output\n1732000000000000,5,1\n1732000000500000,5,1\n", "auto", 0.5, "read as microseconds"),
        ("a.csv", "time,input,output\n2026-01-01T00:00:00,5,1\n2026-01-01T00:00:02,5,1\n", "auto", 2.0, ""),
    ],
)  # fmt: skip
def test_times_are_read_in_their_unit_and_a_guess_is_told(tmp_path, name, text, unit, gap_s, told):
    found = read_trace(TraceFile(path=written(tmp_path / name, text), unit=unit))
    assert found.arrival_s[1] - found.arrival_s[0] == pytest.approx(gap_s, rel=1e-6)
    notes = [note.text for note in found.notes if "--trace-unit" in note.text]
    assert [told in note for note in notes] == ([True] if told else [])


def test_a_unit_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="is 'h'; it must be auto, s, ms, us, ns"):
        read_trace(TraceFile(path=tmp_path / "x.csv", unit="h"))


@pytest.mark.parametrize("row", ["9" * 400 + ",2,3", "1," + "9" * 400 + ",3"])
def test_a_number_beyond_all_others_is_told(tmp_path, row):
    with pytest.raises(InputError, match=r"too large|must be a number"):
        read_trace(written(tmp_path / "t.csv", f"time,input,output\n0,2,3\n{row}\n"))


@pytest.mark.parametrize("last", ["0", "1e-320", "1e-4"])
def test_a_trace_within_a_microsecond_came_at_once(tmp_path, last):
    path = tmp_path / "trace.csv"
    path.write_text(f"timestamp_ms,prompt_tokens,completion_tokens\n0,512,128\n{last},512,128\n", encoding="utf-8")
    assert read_trace(path).duration_s == 1.0
    paced = read_trace(path, rate=4.0)
    assert paced.duration_s == 0.5
    assert paced.arrival_s.tolist() == [0.0, 0.0]
