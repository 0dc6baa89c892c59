"""Reports of measured runs: the table, what is said of them, the figures, and what is missing from them."""

from dataclasses import replace

import numpy as np
import pytest

from advisor.prediction.run_facts import facts_of
from advisor.render import page
from advisor.render.answers.measured import document, measured_columns, measured_rows
from advisor.render.console import text as shown_text
from advisor.render.figures.measured import chart_spec
from advisor.render.measured import findings as four
from advisor.render.measured import sentences
from advisor.render.measured.charts import MOST_CURVES, cache_full, charts, memory_panel, shown
from advisor.render.measured.report import report
from advisor.render.measured.series import SeriesLayout, cases, settings_texts
from advisor.render.tables import markdown
from catalog.errors import InputError
from catalog.run_quantities import joules_per_token, power_w
from catalog.runs import read_runs, shipped_runs
from catalog.schema import Measurement

MODEL = "meta-llama/Llama-2-7b-hf"
BYTES_PER_TOKEN = 2 * 32 * 32 * 128 * 2
"""Of its 16-bit cache on one GPU: keys and values, layers, heads, their width, bytes."""


def drawn(runs, width=100):
    return shown_text(document(runs), width)


def run(batch, *, tp=1, pp=1, tpot=5.0, **given):
    e2e = 10.0 + tpot * 127
    values = {
        "run_id": f"r-tp{tp}pp{pp}-b{batch}",
        "role": "fit",
        "source": "a test",
        "gpu": "H200-SXM",
        "gpus": tp * pp,
        "engine": "torch",
        "engine_version": "2.11",
        "model": MODEL,
        "dtype": "bfloat16",
        "tp": tp,
        "pp": pp,
        "batch": batch,
        "input_len": 128,
        "output_len": 128,
        "prefill_ms": 10.0,
        "tpot_ms": tpot,
        "e2e_ms": e2e,
        "output_tok_s": batch * 128 / e2e * 1e3,
    }
    return Measurement(**{**values, **given})


def oom(batch, **given):
    nothing = dict.fromkeys(("prefill_ms", "tpot_ms", "e2e_ms", "output_tok_s"))
    return run(batch, oom=True, **{**nothing, **given})


def only(runs):
    (case,) = cases(runs)
    return case


def shipped(model="Llama-2-13b"):
    of_vllm = [
        each
        for each in shipped_runs()
        if each.engine == "vllm" and each.regime == "static" and each.engine_version == "0.24.0"
    ]
    return [each for each in of_vllm if model in each.model]


# -- arranging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ({}, "TP1 PP1"),
        ({"tp": 2}, "TP2 PP1"),
        ({"pp": 4}, "TP1 PP4"),
        ({"tp": 2, "pp": 2}, "TP2 PP2"),
        ({"tp": 2, "ep": 2}, "TP2 PP1 EP2"),
        ({"dp": 2, "gpus": 2}, "2 x TP1 PP1"),
    ],
)
def test_layouts_are_named(layout, text):
    assert str(SeriesLayout.of(run(1, **layout))) == text


def test_a_series_is_one_parallelism_by_batch_with_the_median_of_repeated_runs():
    case = only([run(4, tpot=7.0), run(1, tpot=5.0), run(4, tpot=5.0), run(4, tpot=6.0), run(1, tp=2, tpot=3.0)])
    assert [series.label for series in case.series] == ["TP1 PP1", "TP2 PP1"]
    batches, values = case.series[0].points(lambda each: each.tpot_ms)
    assert batches.tolist() == [1, 4]
    assert values.tolist() == [5.0, 6.0]


def test_settings_are_named_where_they_are_rare():
    runs = [run(1), run(2), run(4), run(1, compiled=False), run(1, kv_dtype="fp8", offload=0.5)]
    assert settings_texts(runs) == ["", "", "", "eager", "fp8 KV, 50% offloaded"]
    assert [series.label for series in shown(only(runs))] == ["TP1 PP1"]
    assert {series.label for series in only(runs).series} == {
        "TP1 PP1",
        "TP1 PP1 eager",
        "TP1 PP1 fp8 KV, 50% offloaded",
    }


def test_other_regimes_are_told_apart_and_have_no_energy_by_the_batch():
    steady = run(1, regime="steady", energy_j=10.0)
    assert [series.label for series in only([run(1), run(2), steady]).series] == [
        "TP1 PP1",
        "TP1 PP1 in a steady state",
    ]
    assert joules_per_token(steady) is None
    assert power_w(steady) is None
    assert facts_of([steady])[steady].communication is None


def test_a_parallelism_that_was_run_in_rare_settings_only_is_shown_too():
    runs = [run(1), run(2), run(4), run(1, tp=2, compiled=False)]
    assert [series.label for series in shown(only(runs))] == ["TP1 PP1", "TP2 PP1 eager"]


def test_saturated_runs_have_no_batch_to_be_arranged_by():
    assert cases([replace(run(1), batch=0)]) == ()
    assert "full" in drawn([replace(run(1), batch=0)])


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_table_says_what_was_measured():
    runs = [run(1, tp=2, tpot=5.0, energy_j=64.5, peak_memory_gib=20.25), run(16, tpot=8.0), oom(256)]
    rows = {tuple(line.split()[:4]): line.split()[4:] for line in drawn(runs, width=200).splitlines()}
    assert rows["TP1", "PP1", "128/128", "256"][:4] == ["-", "OOM", "-", "OOM"]
    assert rows["TP2", "PP1", "128/128", "1"][:4] == ["198", "99.2", "10.0", "5.00"]  # 128 tokens in 645 ms on 2 GPUs
    told = drawn(runs, width=200)
    assert "3 runs  |  model Llama-2-7b-hf  |  GPU H200-SXM" in told
    assert "peak memory in 1 of 2 runs" in told
    assert "utilisation" in told


def test_quantities_that_no_run_has_have_no_column():
    header = markdown(measured_columns([run(1)])).splitlines()[0]
    assert "TPOT (ms)" in header
    for absent in ("memory", "sent", "energy", "power", "busy", "agrees"):
        assert absent not in header


def test_tables_hold_every_run():
    runs = shipped()
    assert len(measured_rows(runs)) == len(runs)
    for text in (drawn(runs), markdown(measured_columns(runs))):
        assert text.count("128/128") + text.count("1024/128") + text.count("8192/32") == len(runs)


def test_rows_have_what_follows_from_them():
    row = measured_rows([run(4, tp=2, tpot=5.0, energy_j=512.0)])[0]
    assert row["output_tok_s_per_gpu"] == pytest.approx(4 * 128 / 0.645 / 2)
    assert row["energy_j_per_token"] == pytest.approx(1.0)
    assert row["power_w_per_gpu"] == pytest.approx(512.0 / 0.645 / 2)


def test_power_that_was_sampled_goes_before_power_from_energy():
    assert power_w(run(1, tp=2, power_w=900.0, energy_j=1.0)) == 450.0


# -- what is said ----------------------------------------------------------------------------------------------------


def test_the_best_layout_at_each_batch():
    runs = [run(1), run(8), run(1, tp=2, tpot=2.0), run(8, tp=2, tpot=4.0), run(8, tp=4, tpot=4.0)]
    said = sentences.best_layout(only(runs))
    # 256 tokens/s on 2 GPUs in 264 ms are 242 per GPU, 1 sequence on one GPU has 198
    assert said == (
        "Most output tokens/s per GPU: TP2 PP1 (of TP1 PP1, TP2 PP1) at batch 1 (242), TP1 PP1 at batch 8 (1590)."
    )
    assert sentences.best_layout(only([run(1), run(8)])) == ""


def test_layouts_within_one_percent_are_level():
    assert "TP1 PP1 and TP2 PP1 at batch 1" in sentences.best_layout(only([run(1), run(1, tp=2, output_tok_s=396.0)]))


def test_tensor_parallel_against_split_layers():
    runs = [run(1, tp=2, tpot=5.0), run(8, tp=2, tpot=5.0), run(1, pp=2, tpot=10.0), run(4, pp=2, tpot=10.0)]
    assert sentences.split_ratios(only(runs)) == [
        "On 2 GPUs TP2 gives 1.98 times the output tokens/s of PP2 (layers split) at batch 1."
    ]
    assert sentences.split_ratios(only([run(1), run(1, tp=2)])) == []


def test_where_an_added_sequence_begins_to_bring_little():
    turned = only([run(1, tpot=5.0), run(16, tpot=5.0), run(64, tpot=20.0)])  # 64 in 20 ms: no faster than 16 in 5 ms
    assert "TP1 PP1 between batch 16 and 64" in sentences.turn(turned)
    flat = only([run(1, tpot=5.0), run(16, tpot=5.1), run(64, tpot=5.2)])
    assert "TP1 PP1 not up to batch 64" in sentences.turn(flat)
    assert sentences.turn(only([run(1), run(16)])) == ""


def test_where_memory_ends():
    said = sentences.memory_end(only([run(4), run(8), oom(12), oom(16), oom(4, tp=2)]))
    assert said == "Memory: TP1 PP1 ran out at batch 12 (8 ran); TP2 PP1 ran out at batch 4, the smallest tried."
    assert sentences.memory_end(only([run(4)])) == ""
    assert "cache full above 39 sequences" in sentences.memory_end(only([run(4, kv_capacity_tokens=10_000)]))


def test_how_communication_grows():
    runs = [run(batch, tp=2, comm_bytes=batch * 2.0**20) for batch in (1, 16)]
    (said,) = sentences.communication(only(runs), facts_of(runs))
    assert "a GPU sends 1.00 MiB a run at batch 1, 16.0 MiB at 16" in said
    assert "(16.0 times the bytes for 16.0 times the sequences)" in said
    assert sentences.communication(only([run(1, tp=2), run(2, tp=2)]), {}) == []


def test_energy_settings_and_agreement_are_told():
    runs = [
        run(1, energy_j=256.0, top1_agreement=1.0),
        run(8, energy_j=512.0, top1_agreement=0.97),
        run(1, compiled=False, tpot=10.0),
    ]
    said = "\n".join(sentences.sentences(only(runs), facts_of(runs)))
    assert "from 2.00 J (TP1 PP1, batch 1) to 0.500 J (TP1 PP1, batch 8)" in said
    assert "TP1 PP1 with eager: output tokens/s 0.504 times at batch 1" in said
    assert "in 97% at the worst (TP1 PP1, batch 8; 2 runs compared)" in said


def test_what_is_missing_is_said():
    assert sentences.missing([run(1, energy_j=1.0), run(2, energy_j=None)])[-3:] == [
        "energy in 1 of 2 runs",
        "utilisation",
        "agreement with a reference",
    ]
    one_gpu = ", ".join(sentences.missing([run(1)]))
    assert "communication" not in one_gpu  # it has nobody to send to


# -- facts and charts ------------------------------------------------------------------------------------------------


def test_memory_without_the_empty_part_of_the_cache():
    few = run(2, peak_memory_gib=100.0, kv_capacity_tokens=102_400)
    full = run(400, peak_memory_gib=100.0, kv_capacity_tokens=102_400)
    facts = facts_of([few, full])
    assert facts[full].used_gib(full) == pytest.approx(100.0)
    empty = (102_400 - 2 * 256) * BYTES_PER_TOKEN / 2**30
    assert facts[few].used_gib(few) == pytest.approx(100.0 - empty)
    panel = memory_panel(only([few, full]), facts, title="")
    assert panel.level == facts[few].device_gib
    assert panel.curves[0].y.tolist() == pytest.approx([100.0 - empty, 100.0])


def test_the_dotted_line_ends_at_the_peak_where_the_cache_is_full():
    runs = [run(batch, peak_memory_gib=100.0, kv_capacity_tokens=102_400) for batch in (1, 100)]
    panel = memory_panel(only(runs), facts_of(runs), title="")
    dotted = next(curve for curve in panel.curves if curve.style == "dotted")
    assert (dotted.x[0], dotted.x[-1]) == pytest.approx((100, 400))
    assert dotted.y[-1] == pytest.approx(100.0)
    assert [mark.kind for mark in panel.marks] == ["full"]


def test_a_cache_made_for_one_batch_is_no_limit():
    tried = replace(
        run(8, kv_capacity_tokens=8 * 256), **dict.fromkeys(("prefill_ms", "tpot_ms", "e2e_ms", "output_tok_s"))
    )
    assert cache_full(only([tried]).series[0]) is None
    assert cache_full(only([tried, run(1, kv_capacity_tokens=2560)]).series[0]) == 10


def test_the_least_share_of_the_links():
    sent = run(1, tp=2, comm_bytes=45e6)  # 0.1 ms at 450 GB/s
    assert facts_of([sent])[sent].link_share(sent) == pytest.approx(0.1 / sent.e2e_ms)
    assert facts_of([sent])[sent].communication > 0
    alone = run(1, comm_bytes=0.0)
    assert facts_of([alone])[alone].link_share(alone) is None


def test_models_and_gpus_that_the_catalog_does_not_hold_have_no_facts():
    strange = [run(1, model="nobody/nothing", peak_memory_gib=7.0), run(1, gpu="Abacus", tp=2)]
    assert facts_of(strange) == {}
    kinds = {chart.name.rsplit("_", 1)[1] for chart in charts(strange, {})}
    assert kinds == {"throughput", "latency", "memory"}


def test_charts_show_what_there_is():
    runs = shipped()
    found = {chart.name.rsplit("_", 1)[1]: chart for chart in charts(runs, facts_of(runs))}
    assert found.keys() == {"throughput", "latency", "memory", "communication", "energy"}
    assert "No bytes were counted" in found["communication"].note
    for chart in found.values():
        assert chart.title.endswith("Llama-2-13b-hf bfloat16 on H200-SXM, vllm 0.24.0")
        for panel in (panel for row in chart.rows for panel in row if panel):
            assert panel.curves
            assert all(np.all(np.diff(curve.x) > 0) for curve in panel.curves)
    total = found["throughput"].rows[0][1]
    assert [curve.label for curve in total.curves] == ["TP1 PP1", "TP2 PP1", "TP1 PP2", "TP4 PP1"]
    measured = {(each.tp, each.pp, each.batch): each for each in runs if each.input_len == 1024}
    assert total.curves[1].y[-1] == measured[2, 1, 64].output_tok_s


def test_settings_have_a_chart_of_their_own():
    runs = [run(1), run(8), run(1, compiled=False)]
    found = {chart.name.rsplit("_", 1)[1]: chart for chart in charts(runs, {})}
    assert [curve.label for curve in found["settings"].rows[0][0].curves] == ["TP1 PP1", "TP1 PP1 eager"]
    assert [curve.label for curve in found["throughput"].rows[0][0].curves] == ["TP1 PP1"]


def test_more_lengths_than_fit_go_on_in_another_figure():
    runs = [run(1, input_len=length) for length in (16, 32, 64, 128)]
    names = [chart.name for chart in charts(runs, {}) if "throughput" in chart.name]
    assert [name[-1] for name in names] == ["1", "2"]


def test_no_panel_has_more_curves_than_can_be_told_apart():
    runs = [run(1, tp=2**k, pp=2**j) for k in range(4) for j in range(4)]
    assert len(shown(only(runs))) == MOST_CURVES


# -- the report ------------------------------------------------------------------------------------------------------


def looks_like_an_image(path):
    content = path.read_bytes()
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))  # of a PNG's header
    assert content.startswith(b"\x89PNG")
    assert 250 < height < 5000
    assert 500 < width < 4000
    return len(content) > 5_000  # drawn, not blank


@pytest.mark.slow
def test_a_report_of_shipped_runs(tmp_path):
    runs = shipped()
    folder = tmp_path / "a" / "report"
    summary, table, *figures = report(runs, folder)
    assert sorted(each.name for each in folder.iterdir()) == sorted(each.name for each in (summary, table, *figures))
    assert {each.run_id: each for each in read_runs(table)} == {each.run_id: each for each in runs}
    assert len(figures) == 5
    assert all(looks_like_an_image(path) for path in figures)
    text = summary.read_text(encoding="utf-8")
    for path in figures:
        assert f"]({path.name})" in text
    assert "On 2 GPUs TP2 gives 1.60 times the output tokens/s of PP2 (layers split) at batch 1" in text
    assert "communication bytes" in text


def test_one_run_is_enough(tmp_path):
    summary, _, *figures = report([run(1)], tmp_path)
    assert [path.name.rsplit("_", 1)[1] for path in figures] == ["throughput.png", "latency.png"]
    assert all(looks_like_an_image(path) for path in figures)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("# Measured: 1 run\n")
    assert "Too few runs to compare anything" in text


def test_a_store_of_nothing_but_failures(tmp_path):
    summary, table, *figures = report([oom(8), oom(16), oom(8, tp=2)], tmp_path)
    assert [path.name.rsplit("_", 1)[1] for path in figures] == ["memory.png"]
    assert looks_like_an_image(figures[0])
    assert "TP1 PP1 ran out at batch 8, the smallest tried; TP2 PP1 ran out at batch 8" in summary.read_text(
        encoding="utf-8"
    )
    assert all(each.oom for each in read_runs(table))
    assert "OOM" in drawn([oom(8)])


def test_a_figure_draws_every_point_of_its_curves():
    (throughput, *_) = charts([run(batch, tp=tp) for tp in (1, 2) for batch in (1, 8, 64)], {})
    spec = chart_spec(throughput)
    for row, panels in zip(throughput.rows, spec["vconcat"], strict=True):
        for panel, drawn in zip(row, panels["hconcat"], strict=True):
            lines, points = drawn["layer"][-4:-2]
            expected = [(x, y) for curve in panel.curves for x, y in zip(curve.x, curve.y, strict=True)]
            assert [(each["x"], each["y"]) for each in lines["data"]["values"]] == expected
            assert len(points["data"]["values"]) == len(expected)


@pytest.mark.slow
def test_two_setups_of_the_same_name_keep_their_files(tmp_path):
    runs = [run(1), run(1, dtype="float16"), run(1, engine_version="2.6"), run(1, model="somebody/Llama-2-7b-hf")]
    summary, _, *figures = report(runs, tmp_path)
    assert len(set(figures)) == len(figures) == 8
    assert summary.read_text(encoding="utf-8").count("![") == 8


@pytest.mark.parametrize("write", [report, four.findings])
def test_without_runs_there_is_one_clear_line(write, tmp_path):
    with pytest.raises(InputError, match=r"^there are no measured runs [^\n]+$"):
        write([], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_what_draws_figures_there_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"^reports and figures need .*: pip install 'advisor\[plots\]'$"):
        report([run(1)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the report to .*file"):
        report([run(1)], tmp_path / "file")


# -- the four findings -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_four_findings_of_the_shipped_runs(tmp_path, capsys):
    assert four.main([str(tmp_path)]) == 0
    page, *figures = (tmp_path / line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines())
    assert [path.name for path in figures] == [
        "layer-split.png",
        "memory-threshold.png",
        "communication.png",
        "throughput-per-gpu.png",
    ]
    assert all(looks_like_an_image(path) for path in figures)
    assert "No runs that show it" not in page.read_text(encoding="utf-8")


def test_findings_are_of_one_engine_and_counted():
    runs = [
        *(run(batch, tp=2, tpot=5.0) for batch in (1, 8)),
        run(1, pp=2, tpot=9.0),
        run(8, pp=2, tpot=4.0),
        *shipped(),
    ]
    chart, said = four.layer_split(runs, {})
    assert chart.title == "Tensor parallel is ahead of split layers in 1 of 2 pairs of runs"
    assert chart.note == "torch 2.11 on H200-SXM, bfloat16."
    assert "Split layers are level or ahead at: Llama-2-7b-hf 128 in / 128 out batch 8, 2 GPUs." in said


def test_findings_that_the_runs_do_not_hold_are_absent(tmp_path):
    page, *figures = four.findings([run(1), run(8)], tmp_path)
    assert figures == []
    assert page.read_text(encoding="utf-8").count("No runs that show it") == 4


def test_bytes_that_were_counted_are_shown():
    runs = [run(batch, tp=tp, comm_bytes=batch * tp * 1e6) for batch in (1, 8) for tp in (2, 4)]
    chart, said = four.communication(runs, facts_of(runs))
    assert len(chart.rows) == 2
    assert chart.rows[0][0].curves[0].y.tolist() == pytest.approx([2e6 / 2**30, 16e6 / 2**30])
    assert sum("Communication of TP" in text for text in said) == 2


def test_a_file_that_is_no_store_is_refused(tmp_path, capsys):
    assert four.main([str(tmp_path / "out"), "--runs", str(tmp_path / "nothing.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("cannot read")
