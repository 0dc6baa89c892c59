"""``advisor import`` and ``advisor.import_runs``: what is kept, once, in whatever order, and what is said of the rest."""

import json
import logging
import shutil
from itertools import permutations
from pathlib import Path

import pytest
from typer.testing import CliRunner

import advisor
from advisor.calibration.importing import read_import
from advisor.cli import app
from catalog.requests import read_requests
from catalog.runs import read_runs, shipped_runs

FOLDER = Path(__file__).parents[2] / "catalog" / "benchmarks"
CLOSED, DETAILED, BURSTY = (FOLDER / f"vllm-serve-{name}.json" for name in ("closed", "detailed", "bursty"))
SGLANG, TRTLLM = FOLDER / "sglang.jsonl", FOLDER / "trtllm-bench-closed.json"
KNOWN = {"gpu": "H100", "tp": 2, "engine": "vllm"}
OPTIONS = ["--gpu", "H100-SXM", "--tp", "2", "--engine", "vllm"]


@pytest.fixture(autouse=True)
def _narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["import", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def last(result):
    return result.stdout.splitlines()[-1]


# -- the function ----------------------------------------------------------------------------------------------------


def test_runs_are_returned_and_nothing_is_kept_unasked(home):
    (found,) = advisor.import_runs(CLOSED, **KNOWN)
    assert isinstance(found, advisor.Measurement)
    assert (found.gpu, found.tp, found.gpus, found.regime, found.batch) == ("H100-SXM", 2, 2, "steady", 4)
    assert not home.exists()


def test_a_store_holds_each_run_once_with_its_requests(tmp_path):
    store = tmp_path / "own" / "runs.jsonl"
    for _ in range(2):
        found = advisor.import_runs([DETAILED, CLOSED], store=store, **KNOWN)
        assert read_runs(store) == tuple(found)
        requests = read_requests(tmp_path / "own" / "requests.jsonl")
        assert {each.run_id for each in requests} == {found[0].run_id}
        assert len(requests) == 8
    before = store.read_bytes()
    advisor.import_runs(CLOSED, store=store, **KNOWN)
    assert store.read_bytes() == before
    advisor.import_runs(SGLANG, store=store, gpu="H100")
    assert store.read_bytes().startswith(before)
    assert len(read_runs(store)) == 5


def test_the_order_of_files_does_not_matter(tmp_path):
    """Two of them are accounts of one run that tell different amounts."""
    files = [
        FOLDER / name for name in ("aiperf-closed_aiperf.json", "aiperf-closed_aiperf.csv", "aiperf-open_aiperf.json")
    ]
    kept = []
    for number, ordered in enumerate(permutations(files)):
        store = tmp_path / f"{number}.jsonl"
        advisor.import_runs(ordered, store=store, **KNOWN)
        kept.append(sorted(store.read_text().splitlines()))
    assert len(kept[0]) == 2
    assert all(each == kept[0] for each in kept)
    assert any("23.954" in line for line in kept[0])  # the JSON's, in full


def test_a_run_that_is_kept_with_other_facts_is_not_kept_again(tmp_path, caplog):
    store = tmp_path / "runs.jsonl"
    advisor.import_runs(CLOSED, store=store, **KNOWN)
    before = store.read_bytes()
    with pytest.raises(
        advisor.InputError, match="kept already, with gpu H100-SXM where this says A100-SXM-80GB; remove"
    ):
        advisor.import_runs(CLOSED, store=store, **{**KNOWN, "gpu": "A100"})
    with pytest.raises(advisor.InputError, match="kept already, with role fit where this says validate"):
        advisor.import_runs(CLOSED, store=store, role="validate", **KNOWN)
    assert store.read_bytes() == before
    with caplog.at_level(logging.WARNING):
        advisor.import_runs([CLOSED, DETAILED, BURSTY], store=store, **KNOWN)
    assert "vllm-serve-bursty.json: its requests did not arrive as a Poisson process" in caplog.text
    assert len(read_runs(store)) == 2


def test_what_ships_and_what_the_user_has_is_not_imported_again(home, tmp_path):
    shipped = shipped_runs()[:2]
    (tmp_path / "r.jsonl").write_text("")
    from catalog.runs import append_runs, to_frame

    to_frame(shipped).to_csv(tmp_path / "r.csv", index=False)
    assert read_import([tmp_path / "r.csv"]).new == ()
    assert read_import([tmp_path / "r.csv"], store=tmp_path / "else.jsonl").new == shipped
    (run,) = advisor.import_runs(CLOSED, **KNOWN)
    append_runs(home / "runs" / "mine.jsonl", [run])
    assert read_import([CLOSED], given=KNOWN).new == ()


def test_later_answers_stand_on_what_was_imported(home):
    """The runs of $ADVISOR_HOME are fitted with the shipped ones: they have to be such that they can be."""
    from advisor.calibration.observations import group_runs
    from catalog.runs import user_runs

    files = [CLOSED, DETAILED, FOLDER / "vllm-serve-at-once.json", FOLDER / "vllm-serve-open.json"]
    found = read_import(files, given=KNOWN)
    found.keep()
    assert found.store == home / "runs" / "imported.jsonl"
    assert found.requests_store == home / "requests.jsonl"  # every file in runs/ is one of runs
    assert user_runs() == found.runs
    (group,) = group_runs(user_runs())
    assert [each.regime for each in group.runs] == ["steady", "steady", "static"]  # open loops are left to a simulator


def test_facts_that_nobody_states_are_asked_for_in_one_line():
    with pytest.raises(advisor.InputError) as found:
        advisor.import_runs([FOLDER / "vllm-latency.json", CLOSED])
    assert str(found.value) == (
        "vllm-latency.json does not say the GPU, the tensor parallel size, the model, the engine, the batch, the prompts' "
        "length and the outputs' length; add for example --gpu H100-SXM --tp 4 --model llama-13b --engine vllm --batch 32 "
        "--input-len 1024 --output-len 256"
    )
    with pytest.raises(
        advisor.InputError, match=r"genai-perf\.csv does not say how requests came; add .* --concurrency 32"
    ):
        advisor.import_runs(FOLDER / "genai-perf.csv", model="llama-3.1-8b", **KNOWN)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tp": 0}, "--tp is 0; it must be a whole number above 0"),
        ({"batch": 1.5}, "--batch is 1.5; it must be a whole number above 0"),
        ({"rate": -1.0}, "--rate is -1.0; it must be a number above 0"),
        ({"rate": 1.0, "concurrency": 2}, "--rate and --concurrency are both given"),
        ({"gpu_memory_utilization": 90}, "--gpu-memory-utilization is 90; it must be a number above 0 and at most 1"),
        ({"role": "train"}, "--role is 'train'; it must be fit or validate"),
        ({"dtype": "bf16"}, "--dtype is 'bf16'; "),
        ({"kv_dtype": "fp80"}, "--kv-dtype is 'fp80'; closest: fp8"),
        ({"gpu": "H1000"}, 'unknown GPU "H1000"'),
        ({"engine": "vlm"}, "vllm"),
        ({"model": "lama-13x"}, 'unknown model "lama-13x"'),
        ({"store": "r.csv"}, "r.csv is a CSV file; runs are kept in a store such as r.jsonl"),
        ({"format": "guidelm"}, "unknown format 'guidelm'; closest: guidellm"),
        ({"format": "guidellm"}, "it is vllm-serve"),
    ],
)
def test_impossible_facts_are_refused(given, said):
    with pytest.raises(advisor.InputError) as found:
        advisor.import_runs(CLOSED, **{**KNOWN, **given})
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_nothing_usable_says_why():
    with pytest.raises(advisor.InputError, match=r"nothing can be used: vllm-serve-bursty\.json: its requests"):
        advisor.import_runs(BURSTY, **KNOWN)


def test_folders_are_searched_and_what_is_no_benchmark_is_named(tmp_path):
    folder = tmp_path / "results"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(FOLDER / "vllm-serve-appended.json", folder / "deep" / "run=0.json")
    shutil.copy(SGLANG, folder / "a.jsonl")
    shutil.copy(FOLDER / "vllm-sweep.json", folder / "summary.json")
    (folder / "config.json").write_text('{"model": 1}')
    (folder / "half.json").write_text(CLOSED.read_text()[:200])
    (folder / "picture.png").write_bytes(b"\x89PNG")
    found = read_import([folder], given={"gpu": "H100", "tp": 2})
    assert [run.source for run in found.runs] == ["sglang.bench_serving"] * 3 + ["vllm bench serve"] * 5
    reasons = {each.where: each.reason for each in found.left_out}
    assert reasons.keys() == {"config.json", "half.json"}
    assert reasons["config.json"] == "it is no benchmark that is known"
    assert "cut off" in reasons["half.json"]


def test_a_folder_with_two_accounts_of_one_run_asks_for_no_more_than_the_better_one(tmp_path):
    for name in ("aiperf-closed_aiperf.json", "aiperf-closed_aiperf.csv", "aiperf-closed.jsonl"):
        shutil.copy(FOLDER / name, tmp_path)
    found = read_import([tmp_path], given=KNOWN)
    assert [(each.batch, each.ttft_ms) for each in found.runs] == [(4, pytest.approx(23.9545731))]
    assert len(found.requests[found.runs[0].run_id]) == 24


def test_folders_without_files(tmp_path):
    with pytest.raises(advisor.InputError, match=r"holds no \.json, \.jsonl"):
        read_import([tmp_path])


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_keeps_and_counts(home):
    result = run(DETAILED, CLOSED, BURSTY, *OPTIONS)
    store = home / "runs" / "imported.jsonl"
    assert last(result) == f"2 runs added to {store}; 8 requests to {home / 'requests.jsonl'}; 1 left out"
    assert "vllm-serve-bursty.json: its requests did not arrive as a Poisson process" in " ".join(result.stdout.split())
    assert "TP2" in result.stdout
    assert len(read_runs(store)) == 2
    again = run(DETAILED, CLOSED, *OPTIONS)
    assert last(again) == f"0 runs added to {store}; 2 runs kept already"
    assert len(read_runs(store)) == 2


def test_a_dry_run_keeps_nothing(home):
    result = run(CLOSED, *OPTIONS, "--dry-run")
    assert last(result) == f"1 run would be added to {home / 'runs' / 'imported.jsonl'}"
    assert "TP2" in result.stdout
    assert not home.exists()


def test_a_store_of_ones_own(tmp_path):
    store = tmp_path / "mine.jsonl"
    run(TRTLLM, FOLDER / "trtllm-bench-at-once.log", "--runs", store, "--role", "validate")
    closed, full = read_runs(store)
    assert (closed.role, closed.batch, closed.dtype, full.batch) == ("validate", 8, "fp8", 0)


def test_every_option_says_its_fact(tmp_path):
    store = tmp_path / "r.jsonl"
    run(
        FOLDER / "vllm-latency.json", "--gpu", "H200", "--gpus", 8, "--tp", 2, "--pp", 2, "--dp", 2, "--ep", 2,
        "--model", "mixtral-8x7b", "--engine", "vllm", "--engine-version", "0.24.0", "--dtype", "fp8", "--kv-dtype", "fp8",
        "--max-num-seqs", 128, "--max-num-batched-tokens", 8192, "--max-model-len", 4096,
        "--gpu-memory-utilization", 0.8, "--batch", 4, "--isl", 32, "--osl", 16, "--runs", store,
    )  # fmt: skip
    (found,) = read_runs(store)
    assert (found.gpu, found.gpus, found.tp, found.pp, found.dp, found.ep) == ("H200-SXM", 8, 2, 2, 2, 2)
    assert (found.engine_version, found.dtype, found.kv_dtype) == ("0.24.0", "fp8", "fp8")
    assert (found.max_num_seqs, found.max_num_batched_tokens, found.max_model_len) == (128, 8192, 4096)
    assert (found.gpu_memory_utilization, found.batch, found.input_len, found.output_len) == (0.8, 4, 32, 16)
    assert found.output_tok_s == pytest.approx(2 * 4 * 16 / found.e2e_ms * 1e3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no file named; for example: advisor import results.json"),
        (
            [CLOSED],
            "vllm-serve-closed.json does not say the GPU, the tensor parallel size and the engine; add for example",
        ),
        ([CLOSED, *OPTIONS, "--batch", "5"], "--batch is 5, but vllm-serve-closed.json says 4"),
        ([BURSTY, *OPTIONS], "nothing can be used: vllm-serve-bursty.json"),
        ([FOLDER / "README.md"], "README.md is no benchmark that is known; these are: runs of this program"),
        (["none.json"], "cannot read none.json: No such file or directory"),
        (
            [CLOSED, *OPTIONS, "--format", "sglang"],
            "is not of the format sglang (sglang.bench_serving); it is vllm-serve",
        ),
        ([CLOSED, *OPTIONS, "--runs", "/dev/null/r.jsonl"], "/dev/null/r.jsonl"),
    ],
)
def test_bad_usage_is_one_line_and_nothing_is_kept(arguments, said, home):
    result = run(*arguments, code=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("advisor: ")
    assert said in line
    assert result.stdout == ""
    assert not home.exists()


def test_a_contradiction_in_one_of_several_files_keeps_none(home):
    run(CLOSED, TRTLLM, *OPTIONS, code=2)
    assert not home.exists()


def test_many_rows_left_out_are_counted(tmp_path):
    lines = [CLOSED.read_text().strip(), *[json.dumps({**json.loads(CLOSED.read_text()), "completed": 0})] * 30]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    result = run(tmp_path / "r.jsonl", *OPTIONS)
    assert "and 10 more" in result.stdout
    assert last(result).endswith("; 30 left out")
