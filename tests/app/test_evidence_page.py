"""The page Evidence without a browser: runs and filters, predictions beside them, imports by upload, what to probe."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import advisor
from advisor.prediction.evidence import ExtraRuns
from advisor.validation.holdout import SHIPPED, SPLITS, HoldoutErrors
from app.uploads import file_name

BENCHMARKS = Path(__file__).resolve().parents[1] / "catalog" / "benchmarks"
FACTS = {"import_gpu": "H200-SXM", "import_engine": "vllm"}


def text(test):
    elements = [*test.markdown, *test.info, *test.success, *test.caption]
    return " ".join(element.value for element in elements).replace("\\", "")


def imported(page, *names, facts=FACTS, content=None):
    test = page("evidence", view="Import")
    for key, value in facts.items():
        test.selectbox(key).select(value)
    test.number_input("import_tp").set_value(1)
    files = [(name, content or (BENCHMARKS / name).read_bytes(), "application/json") for name in names]
    return test.file_uploader("benchmarks").set_value(files).run()


def test_all_runs_are_listed_and_filters_leave_what_they_say(page):
    test = page("evidence")
    assert not test.exception
    assert len(test.dataframe[0].value) == len(advisor.shipped_runs())
    test.multiselect("by_engine").select("vllm").run()
    test.multiselect("layout").select("TP2 PP1").run()
    wanted = [
        run for run in advisor.shipped_runs() if (run.engine, run.tp, run.pp, run.dp, run.ep) == ("vllm", 2, 1, 1, 1)
    ]
    assert len(test.dataframe[0].value) == len(wanted)
    assert set(test.dataframe[0].value["parallel"]) == {"TP2 PP1"}
    fitted = sum(run.role == "fit" for run in wanted)
    assert f"{fitted} may be fitted, {len(wanted) - fitted} are kept out" in text(test)
    assert "An answer is calibrated" in text(test)


def test_a_link_filters(page):
    test = page("evidence", of_model="Mixtral-8x7B-v0.1", role="validate")
    assert not test.warning
    assert set(test.dataframe[0].value["model"]) == {"Mixtral-8x7B-v0.1"}


@pytest.mark.slow
def test_predictions_stand_beside_the_runs_that_the_fit_has_not_seen(page):
    test = page("evidence", view="Predicted and measured", by_engine="vllm", metric="tpot_ms")
    assert not test.exception
    unseen = [run for run in advisor.shipped_runs() if run.engine == "vllm" and run.role == "validate" and run.tpot_ms]
    judged = [run for run in unseen if run.regime != "open"]
    assert f"{len(judged)} values that the fit has not seen" in text(test)
    errors = test.dataframe[0].value
    assert errors["split"][0] == "not fitted"
    assert errors["checks"][errors["split"] == "not fitted"].sum() == len(judged)
    before = text(test)
    test.button_group("metric").set_value("prefill_ms").run()
    assert "Prefill: " in text(test)
    assert text(test) != before


def test_what_was_left_out_of_fits_is_shown_with_its_date(page, monkeypatch):
    found = HoldoutErrors.from_json(SHIPPED.read_text(encoding="utf-8"))
    monkeypatch.setattr("app.evidence_judged.holdout_errors", lambda: found)
    test = page("evidence", view="Predicted and measured", by_engine="vllm")
    assert not test.exception
    shown = test.dataframe[1].value
    wanted = [row for row in found.rows if row.group["metric"] == "tpot_ms"]
    assert sorted(shown["checks"]) == sorted(row.checks for row in wanted)
    assert list(shown["split"].unique()) == list(SPLITS)
    assert f"on {found.date}" in text(test)
    monkeypatch.setattr("app.evidence_judged.holdout_errors", lambda: None)
    test.run()
    assert "computes these errors" in text(test)


def test_what_was_never_measured_is_said(page):
    test = page("evidence", view="Predicted and measured", origin="ships", role="validate", layout="TP1 DP2")
    assert not test.exception
    assert not test.error


def test_an_uploaded_benchmark_counts_in_this_session(page):
    test = imported(page, "vllm-serve-closed.json")
    assert not test.exception
    assert not test.error
    assert "1 new run" in [element.value for element in test.subheader]
    assert test.dataframe[0].value["GPU"][0] == "H200-SXM"
    test.button("use").click().run()
    assert "also use 1 imported run" in text(test)
    assert advisor.user_runs() == ()
    test.button_group("view").set_value("Runs").run()
    test.multiselect("origin").select("this session").run()
    assert len(test.dataframe[0].value) == 1
    test.button_group("view").set_value("Import").run()
    test.button("forget").click().run()
    assert "imported run" not in text(test)


def test_an_answer_of_the_session_stands_on_what_it_imported():
    """A run of exactly the asked configuration is that answer, here and in no other session."""
    run = next(
        run
        for run in advisor.shipped_runs()
        if run.engine == "vllm" and run.batch == 16 and run.tp == 1 and run.regime == "static"
    )
    own = replace(
        run, run_id="own/1", e2e_ms=1.03 * run.e2e_ms, tpot_ms=1.03 * run.tpot_ms, output_tok_s=run.output_tok_s / 1.03
    )
    names = (
        "batch",
        "input_len",
        "output_len",
        "tp",
        "dtype",
        "max_num_batched_tokens",
        "max_num_seqs",
        "engine",
        "engine_version",
    )
    ask = partial(advisor.estimate, run.model, f"1x{run.gpu}", **{name: getattr(run, name) for name in names})
    assert ask().tpot_ms == pytest.approx(run.tpot_ms)
    assert ask(runs=ExtraRuns([own])).tpot_ms == pytest.approx(own.tpot_ms)
    slow = replace(
        own, run_id="own/3", e2e_ms=2 * run.e2e_ms, tpot_ms=2 * run.tpot_ms, output_tok_s=run.output_tok_s / 2
    )
    doubted = ask(runs=ExtraRuns([slow]))  # contradicts the run that ships: it stands beside the answer
    assert doubted.tpot_ms == pytest.approx(run.tpot_ms, rel=0.05)
    assert any(note.kind == "warning" and "measured" in note.text for note in doubted.notes)
    assert ask().tpot_ms == pytest.approx(run.tpot_ms)
    unlike = replace(own, run_id="own/2", gpu="H100-SXM")
    assert ask(runs=ExtraRuns([unlike])).tpot_ms == pytest.approx(run.tpot_ms)


@pytest.mark.parametrize("name", ["recommendation", "exploration"])
def test_every_page_of_the_session_stands_on_what_it_imported(page, name):
    run = next(run for run in advisor.shipped_runs() if run.engine == "vllm" and run.batch == 16 and run.tp == 1)
    slow = replace(run, e2e_ms=None, ttft_ms=None, output_tok_s=None, tpot_ms=2 * run.tpot_ms)
    asked = {"model": run.model, "gpu": run.gpu, "count": "1"}
    test = page(name, **asked)
    before = shown(test)
    test.session_state["session runs"] = ExtraRuns(replace(slow, run_id=f"own/{i}") for i in range(20))
    assert shown(test.run()) != before
    assert shown(page(name, **asked)) == before  # of another session


def shown(test):
    assert not test.exception
    assert not test.error
    elements = [*test.metric, *test.markdown]
    return [element.value for element in elements]


def test_kept_runs_are_found_by_every_later_answer(page):
    test = imported(page, "vllm-serve-closed.json")
    test.button("store").click().run()
    assert not test.error
    assert "1 run added to" in text(test)
    assert len(advisor.user_runs()) == 1
    assert "Already kept: 1 run." in text(test)
    assert "new run" not in " ".join(element.value for element in test.subheader)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"hello", "notes.txt is no benchmark that is known"),
        ("cut.json", b'{"date": "2026', "cut.json is not JSON"),
        ("noise.log", bytes(range(256)), "noise.log"),
    ],
)
def test_a_bad_upload_is_one_line(page, name, content, message):
    test = imported(page, name, content=content)
    assert not test.exception
    assert len(test.error) == 1
    assert message in test.error[0].value.replace("\\", "")
    assert "/tmp" not in test.error[0].value


def test_a_fact_that_no_file_says_is_asked_for(page):
    test = imported(page, "vllm-serve-closed.json", facts={})
    assert "does not say the GPU and the engine" in test.error[0].value.replace("\\", "")


@pytest.mark.parametrize("model", ["nobody/nothing-7b", "/etc/config.json", "../../model"])
def test_a_model_that_an_upload_names_is_looked_for_in_the_catalog_only(page, monkeypatch, model):
    def refuse(*_):
        raise AssertionError("looked elsewhere")

    monkeypatch.setattr("catalog.models.hub.read_hub", refuse)
    monkeypatch.setattr("catalog.models.hf_config.read_config", refuse)
    body = json.loads((BENCHMARKS / "vllm-serve-closed.json").read_text())
    test = imported(page, "one.json", content=json.dumps(body | {"model_id": model}).encode())
    assert not test.exception
    assert "is not in the catalog" in " ".join(element.value for element in [*test.error, *test.markdown]).replace(
        "\\", ""
    )
    assert not test.dataframe


def test_the_next_probe_is_a_command_to_copy_and_a_list_of_loads(page):
    test = page("evidence", view="Probe next", model="meta-llama/Llama-2-13b-hf", gpu="H200-SXM", count="4", budget="3")
    assert not test.exception
    assert test.code[0].value == (
        "advisor probe --model meta-llama/Llama-2-13b-hf --gpus local --engine torch --budget 3m"
    )
    ends = test.dataframe[0].value["ends_s"]
    assert len(ends) > 1
    assert ends.max() <= 180


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("day.csv", "day.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\y.csv", "y.csv"),
        ("..", "file"),
        ("a\nb.csv", "a_b.csv"),
    ],
)
def test_a_file_lies_under_a_plain_name(name, kept):
    assert file_name(name) == kept
    assert len(file_name("x" * 500 + ".csv")) <= 80
    assert file_name("x" * 500 + ".csv").endswith(".csv")
