"""Documents as pages: complete in one file, the same numbers, nothing of the input becomes markup."""

import html
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from advisor.capacity.capacity_plan import plan
from advisor.cli import app
from advisor.cli.program import BAD_INPUT
from advisor.prediction.inputs import read_model
from advisor.recommendation.recommendation import recommend
from advisor.render.answers import capacity, recommendation, simulation
from advisor.render.document import Document, Section
from advisor.render.figures.capacity import cost_by_rate, tornado
from advisor.render.figures.recommendation import trade
from advisor.render.figures.traffic import latencies, timeline
from advisor.render.figures.vega import printed
from advisor.render.numbers import short
from advisor.render.page import page_files, png, write_files, write_png
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.schema import Deployment, Slo, Workload

PNG = b"\x89PNG"
COMMON = ["--model", "llama-3.1-8b", "--input-len", "512", "--output-len", "64", "--max-num-seqs", "16", "--draws", "0"]
PLAN = ["plan", *COMMON, "--gpus", "8xH200", "--rate", "40", "--duration", "10", "--tpot", "10", "--price", "2"]


@pytest.fixture(scope="module")
def found():
    workload, slo = Workload(input_len=256, output_len=32, rate=10.0), Slo(ttft_ms=100.0, percentile=95.0)
    model = replace(read_model("llama-3.1-8b").value, name="<b>a & b</b> | *x*")
    return [
        simulate(
            model,
            "2xH200",
            deployment=Deployment(tp=tp, dp=2 // tp),
            workload=workload,
            slo=slo,
            duration_s=20.0,
            draws=0,
        )
        for tp in (1, 2)
    ]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_traffic_in_one_file_and_in_markdown(found, tmp_path):
    html, markdown, *figures = write_files(tmp_path / "a" / "b", page_files(simulation.document(found)))
    assert {each.name for each in figures} == {"latencies.png", "timeline.png"}
    assert all(each.read_bytes().startswith(PNG) for each in figures)
    page, text = html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")
    assert re.findall(r'src="([^,"]*),', page) == ["data:image/png;base64"] * 2
    assert "://" not in page
    assert "<script" not in page
    assert "<b>" not in page + text
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page
    for each in found:
        for value in (each.metrics["ttft_ms"]["p95"], each.saturation_s):
            assert f">{short(value)}<" in page
            assert f"| {short(value)} |" in text
    assert set(re.findall(r"\]\(([^)]*)\)", text)) == {each.name for each in figures}


def test_it_is_the_same_every_time(found):
    assert png(printed(latencies(found))) == png(printed(latencies(found)))


def test_an_image_in_a_name_is_no_image_in_markdown():
    hostile = Document(title="![x](https://example.org/x.png)", sections=[Section(lines=[("a", ["[x](y) `z`"])])])
    text = page_files(hostile)["report.md"].decode()
    assert "!\\[x\\](" in text.replace("\\!", "!")
    assert not re.search(r"(?<!\\)\[", text)


def rows_of(spec, kind):
    """The rows of the layers with such a mark."""
    marks = [(each["mark"] if isinstance(each["mark"], str) else each["mark"]["type"], each) for each in spec["layer"]]
    return [row for mark, each in marks if mark == kind for row in each["data"]["values"]]


def test_the_distribution_drawn_is_that_of_the_requests(found):
    spec, *_ = latencies(found)
    for each, name in zip(found, dict.fromkeys(row["name"] for row in rows_of(spec, "line")), strict=True):
        for row in rows_of(spec, "line"):
            if row["name"] == name:
                value, share = row["time"], row["share"] / 100.0
                below = (each.served.ttft_ms < value - 1e-9).mean()
                until = (each.served.ttft_ms <= value + 1e-9).mean()
                assert below - 0.01 <= share <= until + 0.01
    assert any(each["encoding"].get("x") == {"datum": 100.0} for each in spec["layer"])  # the limit


@pytest.fixture(scope="module")
def advice():
    model = replace(read_model("llama-3.1-8b").value, name="<b>a & b</b>")
    return recommend(model, "2xH200", slo=Slo(tpot_ms=30.0))


def test_a_recommendation_says_what_to_start_and_why(advice):
    files = page_files(recommendation.document(advice))
    assert list(files) == ["report.html", "report.md", "trade.png", "memory.png"]
    assert all(files[name].startswith(PNG) for name in ("trade.png", "memory.png"))
    page, text = files["report.html"].decode(), files["report.md"].decode()
    assert page.count("data:image/png;base64,") == 2
    assert "<b>a" not in page
    assert f"batch {advice.best.batch}" in text
    assert short(advice.best.tpot_ms) in text
    start, following = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert f"--max-num-seqs {advice.best.deployment.max_num_seqs}" in start
    assert following.startswith("advisor simulate ")
    for command in (start, following):
        assert all(f"    {line}" in text.splitlines() for line in html.unescape(command).splitlines())


def test_a_trade_shows_the_candidates_at_their_speed_and_throughput(advice):
    drawn = {(row["speed"], row["throughput"]) for row in rows_of(trade(advice, advice.best), "point")}
    assert {(1e3 / each.tpot_ms, each.output_tok_s_per_gpu) for each in advice.candidates} <= drawn


def test_where_nothing_is_feasible_a_report_says_what_comes_nearest():
    nothing = recommend("llama-70b", "4xH100", slo=Slo(tpot_ms=5.0))
    files = page_files(recommendation.document(nothing))
    assert list(files) == ["report.html", "report.md", "memory.png"]
    assert nothing.relaxations[0] in files["report.md"].decode()
    assert b"<pre>" not in files["report.html"]
    assert list(page_files(recommendation.document(recommend("llama-70b", "1xL40S")))) == ["report.html", "report.md"]


def test_preemptions_are_drawn_over_time_where_there_are_any(found):
    crowded = simulate(
        "llama-3.1-8b",
        "H100",
        deployment=Deployment(max_model_len=16384, gpu_memory_utilization=0.3),
        workload=Workload(input_len=3000, output_len=1000, rate=5.0),
        duration_s=60.0,
        draws=0,
    )
    assert crowded.preemptions > 0
    every = crowded.timeline["preemptions_s"].sum() * (crowded.timeline["time_s"][1] - crowded.timeline["time_s"][0])
    assert 0 < every <= crowded.preemptions + 1e-6  # the rest come after the last request did
    for each, drawn in ((found[0], 4), (crowded, 5)):
        assert len(timeline([each])) == drawn


@pytest.mark.slow
def test_files_that_cannot_be_written(found, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        write_files(tmp_path / "file" / "folder", {"x": b""})
    with pytest.raises(InputError, match="cannot write"):
        write_png(printed(latencies(found)), tmp_path / "missing" / "x.png")
    run("simulate", *COMMON, "--gpus", "H200", "--rate", "5", "--report", tmp_path / "file", code=BAD_INPUT)
    result = run("simulate", *COMMON, "--gpus", "H200", "--rate", "5", "--plot", "x.jpg", code=BAD_INPUT)
    assert "PNG" in result.stderr


@pytest.mark.slow
def test_commands_write_reports(tmp_path):
    text = run(*PLAN, "--report", tmp_path / "plan").stdout
    assert "\nreport  " in text
    page = (tmp_path / "plan" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 3
    for word in ("H200-SXM", "$ a month", "requests/s of 512 in / 64 out", "as stated"):
        assert word in page
    run("simulate", *COMMON, "--gpus", "H200", "--rate", "5", "--duration", "5", "--plot", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)
    text = run("recommend", "--model", "llama-3.1-8b", "--gpus", "H200", "--report", tmp_path / "advice").stdout
    assert "\nreport  " in text
    assert {path.name for path in (tmp_path / "advice").iterdir()} == {
        "report.html",
        "report.md",
        "trade.png",
        "memory.png",
    }
    run(*PLAN, "--ttft", "1", "--report", tmp_path / "none", code=1)
    page = (tmp_path / "none" / "report.html").read_text(encoding="utf-8")
    assert "Nothing keeps p95" in page
    assert "To relax: " in page
    assert page.count("<img") == 1  # how far from the limits the nearest is


def test_figures_of_a_plan_show_its_numbers(tmp_path):
    answer = plan(
        "llama-3.1-8b",
        "H200",
        rate=40.0,
        slo=Slo(tpot_ms=8.0),
        price=2.0,
        duration_s=10.0,
        draws=0,
        workload=Workload(input_len=512, output_len=64),
        deployment=Deployment(max_num_seqs=16),
        top=1,
    )
    points = {row["rate"]: row["cost"] for row in rows_of(cost_by_rate(answer), "line")}
    assert points[40.0] == pytest.approx(answer.best.usd_per_month)
    assert len(points) == 1 + sum(each.what == "rate" and each.replicas is not None for each in answer.sensitivity)
    bars = rows_of(tornado(answer), "bar")
    for each, row in zip(answer.sensitivity, bars, strict=True):
        assert row["text"].startswith(f"{each.gpus} GPU") if each.gpus else row["text"].startswith("no number")
    assert len(write_files(tmp_path, page_files(capacity.document(answer)))) == 5
