"""Traffic in pieces: the same requests meet the same, whatever the pieces, and what is told of them is what they say."""

import contextlib
import os
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from advisor.cli import app
from advisor.simulator import arrivals as traffic
from advisor.simulator import trace_files as traces
from advisor.simulator.arrivals import ArrivalStream, BusiestWindow, open_loop, open_traffic
from advisor.simulator.scheduler import serve, serve_pieces
from advisor.simulator.simulation import simulate
from advisor.simulator.streaming_statistics import StreamingStatistics
from advisor.simulator.trace_files import open_trace, read_trace
from catalog.errors import InputError
from catalog.schema import Deployment, Slo, Workload
from tests.advisor.simulator.test_scheduler_loop import cases, times_of

LIMITS = {"ttft_ms": 40.0, "tpot_ms": 9.0}
SMALL = Deployment(max_num_seqs=32, max_model_len=800)


@st.composite
def cut(draw):
    """A case with open arrivals, and it in pieces, of which some may be empty."""
    offered, scheduler = draw(cases().filter(lambda case: case[0].concurrency is None))
    ends = sorted(draw(st.lists(st.integers(0, len(offered)), min_size=1, max_size=6)))
    number = np.arange(len(offered))
    pieces = [
        offered.only((number >= begin) & (number < end))
        for begin, end in zip([0, *ends], [*ends, len(offered)], strict=True)
    ]
    return offered, pieces, scheduler


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(case=cut())
def test_in_pieces_every_request_meets_exactly_what_it_meets_in_the_whole(case):
    offered, pieces, scheduler = case
    times = times_of(scheduler)
    whole = serve(offered, times, scheduler, steps_logged=20_000)
    parts = list(serve_pieces(pieces, times, scheduler, duration_s=offered.duration_s, steps_logged=20_000))
    for name in (
        "arrival_s",
        "input_len",
        "output_len",
        "ttft_ms",
        "e2e_ms",
        "longest_itl_ms",
        "preemptions",
        "replica",
        "counted",
    ):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)), name
    last = parts[-1]
    for name in ("gaps", "bins", "log"):
        assert np.array_equal(getattr(last, name), getattr(whole, name)), name
    assert (last.steps, last.end_s, last.most_blocks) == (whole.steps, whole.end_s, whole.most_blocks)


@settings(deadline=None, max_examples=60)
@given(case=cut())
def test_a_tally_says_what_the_requests_say(case):
    offered, pieces, scheduler = case
    times = times_of(scheduler)
    whole = serve(offered, times, scheduler)
    tally = StreamingStatistics(limits=LIMITS, duration_s=offered.duration_s)
    for part in serve_pieces(pieces, times, scheduler, duration_s=offered.duration_s):
        tally.add(part)
    assert len(tally) == len(whole)
    assert tally.loads == pytest.approx(whole.loads)
    assert tally.preempted == whole.preempted
    assert tally.good(LIMITS) == whole.good(LIMITS)
    assert tally.completed(0.0, offered.duration_s) == whole.completed(0.0, offered.duration_s)
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        assert tally.mean(metric) == pytest.approx(whole.mean(metric), rel=1e-9, nan_ok=True)
        if metric == "itl_ms":
            assert tally.percentile(metric, 95) == pytest.approx(whole.percentile(metric, 95), nan_ok=True)
            continue
        values = np.sort(whole.values(metric))
        for percentile in (1.0, 50.0, 99.0):
            # The value itself, where np.percentile lies between two: few requests are far apart.
            exact = values[int(np.ceil(percentile / 100 * len(values))) - 1] if len(values) else np.nan
            assert tally.percentile(metric, percentile) == pytest.approx(exact, rel=0.0006, nan_ok=True)


def joined(stream):
    assert isinstance(stream, ArrivalStream)
    pieces = list(stream.pieces())
    assert len(pieces) > 3
    return [
        np.concatenate([getattr(each, name) for each in pieces]) for name in ("arrival_s", "input_len", "output_len")
    ]


def hold_little(monkeypatch):
    """As if memory held no more than 300 requests."""
    for module in (traces, traffic):
        monkeypatch.setattr(module, "WHOLE", 300)
        monkeypatch.setattr(module, "PIECE", 256)


@pytest.fixture
def little(monkeypatch):
    hold_little(monkeypatch)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(
    "shape", [{}, {"burstiness": 4.0, "spread": 0.7}, {"burstiness": 0.0, "curve": [1, 0, 3]}, {"seed": 5}]
)
def test_requests_made_in_pieces_are_those_made_at_once(shape):
    asked = {"duration_s": 90.0, "longest": 800} | shape
    workload = Workload(rate=20.0, input_len=500, output_len=100)
    whole = open_loop(workload, **asked)
    stream = open_traffic(workload, **asked)
    for made, expected in zip(joined(stream), (whole.arrival_s, whole.input_len, whole.output_len), strict=True):
        assert np.array_equal(made, expected)
    assert (stream.rate, stream.duration_s) == (whole.rate, whole.duration_s)
    busiest = BusiestWindow()
    assert sum(map(len, busiest.passing(stream.pieces()))) == len(whole)
    # No full piece of the whole is shorter, and it stands for itself.
    begins = range(0, len(whole) - 255, 256)
    spans = [whole.arrival_s[begin + 255] - whole.arrival_s[begin] for begin in begins]
    assert busiest.window.arrival_s[0] == 0.0
    assert busiest.window.arrival_s[-1] <= min(spans) * (1 + 1e-9)


def long_trace(folder, count=1500):
    random = np.random.default_rng(1)
    at = np.cumsum(random.exponential(0.1, count))
    rows = zip(at, random.integers(1, 900, count), random.integers(0, 30, count), strict=True)
    path = folder / "long.csv"
    path.write_text("time,input,output\n" + "".join(f"{t:.4f},{i},{o}\n" for t, i, o in rows), encoding="utf-8")
    return path


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("given", [{}, {"rate": 31.0}, {"duration_s": 120.0}, {"duration_s": 120.0, "rate": 0.5}])
def test_a_long_file_is_read_in_pieces_as_at_once(tmp_path, given):
    path = long_trace(tmp_path)
    whole, stream = read_trace(path, **given), open_trace(path, **given)
    for _ in range(2):  # it can be read again
        for read, expected in zip(joined(stream), (whole.arrival_s, whole.input_len, whole.output_len), strict=True):
            assert np.array_equal(read, expected)
    assert (stream.rate, stream.duration_s, stream.notes) == (whole.rate, whole.duration_s, whole.notes)
    fitting = stream.within(500)
    assert sum(map(len, fitting.pieces())) == len(whole.within(500))
    with pytest.raises(InputError, match=r"all \d+ requests are longer than the 1 tokens"):
        simulate("llama-3.1-8b", "H200", trace=stream.within(1), deployment=SMALL, draws=0)


@pytest.mark.usefixtures("little")
def test_a_bad_line_far_down_is_told_by_its_number(tmp_path):
    path = long_trace(tmp_path)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n1e6,5,5\n1e6,-5,5\n")  # the blank line counts
    with pytest.raises(InputError, match="line 1504: its input is -5; it must be a whole number of tokens from 1 to"):
        open_trace(path)


@pytest.mark.usefixtures("little")
def test_what_cannot_be_read_twice_is_refused_where_it_is_long(tmp_path):
    text = long_trace(tmp_path).read_text(encoding="utf-8")
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)

    def feed(part):
        with contextlib.suppress(BrokenPipeError):
            pipe.write_text(part, encoding="utf-8")

    for part, refused in ((text[:2000], False), (text, True)):
        writer = threading.Thread(target=feed, args=(part[: part.rindex("\n") + 1],))
        writer.start()
        if refused:
            with pytest.raises(InputError, match="more than 300 requests and cannot be read twice; store it in a file"):
                open_trace(pipe)
        else:
            assert len(open_trace(pipe)) > 50
        writer.join()


def test_a_simulation_of_pieces_says_what_one_of_the_whole_says(tmp_path, monkeypatch):
    path = long_trace(tmp_path)
    asked = {"deployment": SMALL, "slo": Slo(ttft_ms=60.0, percentile=90.0), "draws": 2}
    whole = simulate("llama-3.1-8b", "H200", trace=path, **asked)
    hold_little(monkeypatch)
    given = []
    found = simulate("llama-3.1-8b", "H200", trace=path, each=given.append, **asked)
    assert isinstance(found.served, StreamingStatistics)
    assert str([row for part in given for row in part.rows()]) == str(list(whole.served.rows()))  # with NaN for NaN
    with pytest.raises(InputError, match="too many to be kept"):
        found.requests()
    for metric, statistics in whole.metrics.items():
        told = found.metrics[metric]
        assert told.keys() == statistics.keys()
        assert told["mean"] == pytest.approx(statistics["mean"])
        assert told["p90"] == pytest.approx(statistics["p90"], rel=0.01), metric  # of few requests the next one is far
    assert found.metrics["e2e_ms"]["p50"] == pytest.approx(whole.metrics["e2e_ms"]["p50"], rel=0.001)
    same = (
        "rate",
        "completed_s",
        "output_tok_s",
        "goodput_s",
        "good",
        "meets",
        "preemptions",
        "kv_peak",
        "steps",
        "duration_s",
    )
    assert {name: getattr(found, name) for name in same} == {name: getattr(whole, name) for name in same}
    assert found.energy_j_per_token == pytest.approx(whole.energy_j_per_token)
    assert all(np.array_equal(found.timeline[name], curve) for name, curve in whole.timeline.items())
    assert len(found.to_dict()["timeline"]["running"]) == len(whole.timeline["running"])
    low, high = found.interval("tpot_ms", "p95")
    assert low < found.metrics["tpot_ms"]["p95"] < high
    (busiest,) = re.findall(rf"intervals are from the busiest (\d+) of {len(whole.served)} requests", str(found.notes))
    assert 128 <= int(busiest) <= 256


@pytest.mark.usefixtures("little")
def test_the_command_writes_the_requests_of_a_long_trace_once_it_is_done(tmp_path):
    path = long_trace(tmp_path)
    command = [
        "simulate",
        "--model",
        "llama-3.1-8b",
        "--gpus",
        "2xH200",
        "--trace",
        str(path),
        "--draws",
        "0",
        "--max-num-seqs",
        "32",
        "--max-model-len",
        "800",
        "--requests",
        str(tmp_path / "out.csv"),
        "--compare",
        "dp=2",
        "--plot",
        str(tmp_path / "p.png"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    kept = len(read_trace(path).within(800))
    assert len(rows) == 1 + 2 * kept
    assert rows[0].startswith("deployment,arrival_s,input_len")
    assert f"of {len(read_trace(path))} requests are longer than 800 tokens and refused" in " ".join(
        result.stdout.split()
    )
    before = (tmp_path / "out.csv").read_bytes()
    path.write_text(path.read_text(encoding="utf-8") + "0,1,1\n", encoding="utf-8")
    assert CliRunner().invoke(app, command).exit_code == 2
    assert (tmp_path / "out.csv").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.usefixtures("little")
def test_a_queue_that_outgrows_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("advisor.simulator.server.MOST_REQUESTS", 200)
    crowd = replace(SMALL, max_num_seqs=1)
    with pytest.raises(InputError, match=r"requests were waiting or being served .* a second came"):
        simulate(
            "llama-3.1-8b", "H200", workload=Workload(rate=500), trace=long_trace(tmp_path), deployment=crowd, draws=0
        )
