"""Reports of traffic and of plans: complete in one file, the same numbers, nothing of the input becomes markup."""

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
from advisor.render.choice_figures import trade_figure
from advisor.render.numbers import short
from advisor.render.reviews import draw_traffic, recommendation_files, review_plan, review_traffic
from advisor.render.traffic_figures import cost_figure, latency_figure, sensitivity_figure, timeline_figure
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
        simulate(model, "2xH200", deployment=Deployment(tp=tp, dp=2 // tp), workload=workload, slo=slo, duration_s=20.0, draws=0)
        for tp in (1, 2)
    ]  # fmt: skip


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_traffic_in_one_file_and_in_markdown(found, tmp_path):
    html, markdown, *figures = review_traffic(found, tmp_path / "a" / "b")
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


def test_it_is_the_same_every_time(found, tmp_path):
    first, second = (draw_traffic(found[:1], tmp_path / f"{name}.png") for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_the_distribution_drawn_is_that_of_the_requests(found):
    panel = latency_figure(found).axes[0]
    for each, line in zip(found, panel.lines, strict=False):
        x, y = line.get_data()
        for value, share in zip(x, y / 100.0, strict=True):
            below, until = (each.served.ttft_ms < value - 1e-9).mean(), (each.served.ttft_ms <= value + 1e-9).mean()
            assert below - 0.01 <= share <= until + 0.01
    assert panel.lines[-1].get_xdata()[0] == 100.0  # the limit


@pytest.fixture(scope="module")
def advice():
    model = replace(read_model("llama-3.1-8b").value, name="<b>a & b</b>")
    return recommend(model, "2xH200", slo=Slo(tpot_ms=30.0))


def test_a_recommendation_says_what_to_start_and_why(advice):
    files = recommendation_files(advice)
    assert list(files) == ["report.html", "report.md", "trade.png", "memory.png"]
    assert all(files[name].startswith(PNG) for name in ("trade.png", "memory.png"))
    page, text = files["report.html"].decode(), files["report.md"].decode()
    assert page.count("data:image/png;base64,") == 2
    assert "<b>a" not in page
    assert f"batch {advice.best.batch}" in text
    assert short(advice.best.tpot_ms) in text
    (command,) = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert f"--max-num-seqs {advice.best.deployment.max_num_seqs}" in command
    assert all(f"    {line}" in text.splitlines() for line in html.unescape(command).splitlines())


def test_a_trade_shows_the_candidates_at_their_speed_and_throughput(advice):
    drawn = {
        (round(x, 6), round(y, 6))
        for line in trade_figure(advice).axes[0].lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert {(round(1e3 / each.tpot_ms, 6), round(each.output_tok_s_per_gpu, 6)) for each in advice.candidates} <= drawn


def test_where_nothing_is_feasible_a_report_says_what_comes_nearest():
    nothing = recommend("llama-70b", "4xH100", slo=Slo(tpot_ms=5.0))
    files = recommendation_files(nothing)
    assert list(files) == ["report.html", "report.md", "memory.png"]
    assert nothing.relaxations[0] in files["report.md"].decode()
    assert b"<pre>" not in files["report.html"]
    assert list(recommendation_files(recommend("llama-70b", "1xL40S"))) == ["report.html", "report.md"]


def test_preemptions_are_drawn_over_time_where_there_are_any(found):
    crowded = simulate(
        "llama-3.1-8b", "H100", deployment=Deployment(max_model_len=16384, gpu_memory_utilization=0.3),
        workload=Workload(input_len=3000, output_len=1000, rate=5.0), duration_s=60.0, draws=0,
    )  # fmt: skip
    assert crowded.preemptions > 0
    every = crowded.timeline["preemptions_s"].sum() * (crowded.timeline["time_s"][1] - crowded.timeline["time_s"][0])
    assert 0 < every <= crowded.preemptions + 1e-6  # the rest come after the last request did
    for each, drawn in ((found[0], 4), (crowded, 5)):
        assert sum(axes.get_visible() for axes in timeline_figure([each]).axes) == drawn


@pytest.mark.slow
def test_files_that_cannot_be_written(found, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        review_traffic(found, tmp_path / "file" / "folder")
    with pytest.raises(InputError, match="cannot write"):
        draw_traffic(found, tmp_path / "missing" / "x.png")
    run("simulate", *COMMON, "--gpus", "H200", "--rate", "5", "--report", tmp_path / "file", code=BAD_INPUT)
    result = run("simulate", *COMMON, "--gpus", "H200", "--rate", "5", "--plot", "x.jpg", code=BAD_INPUT)
    assert "PNG" in result.stderr


@pytest.mark.slow
def test_commands_write_reports(tmp_path):
    text = run(*PLAN, "--report", tmp_path / "plan").stdout
    assert "\nreport  " in text
    page = (tmp_path / "plan" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 3
    for word in ("H200-SXM", "$ a month", "requests/s within the limits", "as stated"):
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
    assert "No fleet keeps the limits. Relax: " in page
    assert "<img" not in page


def test_figures_of_a_plan_show_its_numbers(tmp_path):
    found = plan(
        "llama-3.1-8b", "H200", rate=40.0, slo=Slo(tpot_ms=8.0), price=2.0, duration_s=10.0, draws=0,
        workload=Workload(input_len=512, output_len=64), deployment=Deployment(max_num_seqs=16), top=1,
    )  # fmt: skip
    x, y = cost_figure(found).axes[0].lines[0].get_data()
    assert dict(zip(x, y, strict=True))[40.0] == pytest.approx(found.best.usd_per_month)
    assert len(x) == 1 + sum(each.what == "rate" and each.replicas is not None for each in found.sensitivity)
    ends = {bar.get_x() + bar.get_width() for bar in sensitivity_figure(found).axes[0].patches}
    wanted = {each.gpus for each in found.sensitivity if each.factor in (0.8, 1.25)}
    assert ends | {found.best.gpus} == wanted | {found.best.gpus}
    assert len(review_plan(found, tmp_path)) == 5
