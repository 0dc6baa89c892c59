"""A user's own runs on top of what ships: what is learned, what is said of it, and what answers stand on afterwards."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import advisor
from advisor.calibration.fingerprint import Platform, disagreements, platform_of
from advisor.calibration.fit_file import SCHEMA
from advisor.calibration.surrogate import Surrogate, shipped_surrogate
from advisor.cli import app
from advisor.perf_model.parameters import NAMES
from advisor.prediction.evidence import Evidence
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.runs import append_runs
from tests.reference_runs import reference_runs

SHIPPED = [run for run in reference_runs() if run.engine == "vllm" and run.regime == "static" and not run.oom]
TIMES = ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms")


def slower(run, factor, **changes):
    times = {name: getattr(run, name) * factor for name in TIMES if getattr(run, name) is not None}
    own = replace(run, run_id=f"own {run.run_id}", source="own", output_tok_s=run.output_tok_s / factor, **times)
    return replace(own, role="fit", **changes)


def layouts(model, *kinds):
    return [run for run in SHIPPED if run.model.endswith(model) and (run.tp, run.pp) in kinds]


SLOW = [slower(run, 1.2) for run in layouts("Llama-2-13b-hf", (1, 1), (2, 1))]
ELSEWHERE = layouts("Qwen2.5-32B", (2, 1))
"""What the fit below never sees."""


@pytest.fixture(scope="module")
def learned():
    return advisor.fit(SLOW)


def mean_error(stands_on):
    """Of TPOT of runs of a slower machine."""
    found = [
        advisor.estimate(
            run.model, f"{run.gpus}x{run.gpu}", tp=run.tp, pp=run.pp, batch=run.batch, input_len=run.input_len,
            output_len=run.output_len, max_num_batched_tokens=run.max_num_batched_tokens, max_num_seqs=run.max_num_seqs,
            max_model_len=run.max_model_len, dtype=run.dtype, runs=stands_on, gpu_memory_utilization=0.85,
        ).tpot_ms
        / (1.2 * run.tpot_ms) - 1.0
        for run in ELSEWHERE
    ]  # fmt: skip
    return float(np.mean(np.abs(found)))


def test_a_slower_machine_is_learned_and_helps_with_models_not_measured(learned):
    before, after = mean_error(shipped_surrogate()), mean_error(learned)
    assert before > 0.12
    assert after < 0.06
    # of other engines and GPUs it says nothing
    assert learned.marginals["vllm", "A100-SXM-80GB"] is shipped_surrogate().marginals["vllm", "A100-SXM-80GB"]


def test_it_says_what_it_has_learned(learned):
    (lesson,) = learned.lessons
    assert (lesson.engine, lesson.gpu, lesson.runs) == ("vllm", "H200-SXM", len(SLOW))
    assert lesson.models == ("meta-llama/Llama-2-13b-hf",)
    assert lesson.platforms == (Platform(engine_version="0.24", driver="580", sm_mhz=1980),)
    tpot = next(row for row in lesson.accuracy if row.metric == "tpot_ms")
    assert tpot.runs == len(SLOW)
    assert tpot.error_before > 0.12
    assert tpot.error_left_out < 0.5 * tpot.error_before
    assert tpot.error_after < 0.5 * tpot.error_before
    # decode has none but of 8 long sequences on half the heads, which leave the GPU's last wave half empty
    decode = {outlier.run_id for outlier in lesson.outliers if outlier.metric not in {"ttft_ms", "prefill_ms"}}
    assert all("tp2" in name and "-b8-i8192-" in name for name in decode)
    assert lesson.moves[0].distance == max(move.distance for move in lesson.moves)
    for move in lesson.moves:
        assert move.before_low < move.before < move.before_high
        assert move.after_low < move.after < move.after_high


def test_a_run_that_the_others_contradict_is_named():
    wild = replace(SLOW[1], tpot_ms=2 * SLOW[1].tpot_ms, e2e_ms=2 * SLOW[1].e2e_ms)
    (lesson,) = advisor.fit([SLOW[0], wild, *SLOW[2:]]).lessons
    assert (lesson.outliers[0].run_id, lesson.outliers[0].measured) in {
        (wild.run_id, wild.tpot_ms),
        (wild.run_id, wild.e2e_ms),
    }


def test_left_out_errors_that_exceed_their_intervals_widen_them():
    """Runs that no parameters explain, but may be what they say: every other layout slower by a third."""
    odd = [slower(run, 1.3 if run.tp > 1 else 1.0) for run in layouts("Llama-2-13b-hf", (1, 1), (2, 1))]
    found = advisor.fit(odd)
    row = next(row for row in found.lessons[0].accuracy if row.metric == "prefill_ms")
    assert row.widening > 1.5
    gpu = find_gpu("H200").value
    knowledge = Evidence.of(found, engine="vllm", gpu=gpu)
    plain = found.scale("calibrated", "vllm", "prefill_ms").quantile(0.9)
    assert knowledge.scale("calibrated", "vllm", "prefill_ms").quantile(0.9) == pytest.approx(row.widening * plain)
    assert knowledge.scale("transferred", "vllm", "prefill_ms").quantile(0.9) < row.widening * plain


def test_runs_that_contradict_the_others_move_nothing_and_widen(tmp_path):
    """Every other layout three times as slow: no machine is like that."""
    odd = [slower(run, 3.0 if run.tp > 1 else 1.0) for run in layouts("Llama-2-13b-hf", (1, 1), (2, 1))]
    found = advisor.fit(odd)
    assert {outlier.run_id for outlier in found.lessons[0].outliers} >= {run.run_id for run in odd if run.tp > 1}
    shipped = shipped_surrogate().marginal("vllm", "H200-SXM")
    after = found.marginal("vllm", "H200-SXM")
    assert after.dispersion > 1.5
    assert np.trace(after.covariance) > np.trace(shipped.covariance)
    found.write(tmp_path / "fit.json")
    assert Surrogate.read(tmp_path / "fit.json").marginal("vllm", "H200-SXM").dispersion == after.dispersion
    text = (tmp_path / "fit.json").read_text()
    for wrong in ("0.5", "1e9", "true", '"2"'):
        with pytest.raises(InputError, match="damaged"):
            Surrogate.from_json(text.replace(f'"dispersion":{after.dispersion}', f'"dispersion":{wrong}'))


def test_alone_it_knows_only_these_runs(learned):
    alone = advisor.fit(SLOW, alone=True)
    gpu = find_gpu("A100").value
    assert Evidence.of(alone, engine="vllm", gpu=gpu).marginal("vllm", gpu).provenance == "analytic"
    assert alone.lessons[0].provenance_before == "analytic"
    assert np.trace(alone.marginal("vllm", "H200-SXM").covariance) > np.trace(
        learned.marginal("vllm", "H200-SXM").covariance
    )
    assert alone.sources == ("own",)
    assert Evidence.of(alone, engine="vllm", gpu=gpu).runs == ()


def test_a_new_gpu_measured_with_one_engine_is_known_better_by_the_others():
    """The torch probe of a GPU nobody measured informs vLLM's parameters there, and never makes them less certain."""
    runs = [
        slower(run, 0.6, gpu="GB200", engine="torch", engine_version="2.11.0")
        for run in layouts("Llama-2-13b-hf", (1, 1), (2, 1))
    ]
    found, shipped = advisor.fit(runs), shipped_surrogate()
    before, after = shipped.marginal("vllm", "GB200"), found.marginal("vllm", "GB200")
    assert not np.array_equal(before.mean, after.mean)
    assert after.provenance == before.provenance == "transferred"
    assert np.linalg.eigvalsh(before.covariance - after.covariance).min() > -1e-12
    assert np.linalg.eigvalsh(after.covariance).min() > 0
    gemm = NAMES.index("gemm_memory")
    moved = found.marginal("torch", "GB200").mean - shipped.marginal("torch", "GB200").mean
    assert np.sign(after.mean - before.mean)[gemm] == np.sign(moved[gemm])


def test_what_is_written_is_read(learned, tmp_path):
    path = tmp_path / "fit.json"
    learned.write(path)
    read = Surrogate.read(path)
    assert read.lessons == learned.lessons
    assert (read.alone, read.sources, read.data_hash) == (learned.alone, learned.sources, learned.data_hash)
    assert read.data_hash != shipped_surrogate().data_hash
    body = json.loads(path.read_text())
    assert body["schema"] == SCHEMA
    assert [lesson["platforms"][0]["engine_version"] for lesson in body["lessons"]] == ["0.24"]


@pytest.mark.parametrize(
    "broken",
    [{"lessons": [{}]}, {"lessons": 7}, {"lessons": [[]]}, {"lessons": [{"engine": 1}]}, {"schema": 99}, {"marginals": 0}],
)  # fmt: skip
def test_a_damaged_fit_is_refused_in_one_line(learned, tmp_path, broken):
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(json.loads(learned.to_json()) | broken))
    with pytest.raises(InputError, match="fit") as refusal:
        Surrogate.read(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("scales", {"noise": float("nan")}),
        ("scales", {"noise": "0.1"}),
        ("scales", {"noise": -5.0, "quantiles": [1e300] * 8}),
        ("scales", {"quantiles": [-1.0] * 8}),
        ("scales", {"quantiles": [1e300] * 8}),
        ("scales", {"quantiles": [3.0, 2.5, 2.0, 1.5, 1.0, 0.9, 0.8, 0.7]}),
        ("scales", {"runs": None}),
        ("marginals", {"mean": [50.0] * len(NAMES)}),
        ("marginals", {"mean": [10**400] * len(NAMES)}),
    ],
)
def test_numbers_that_no_fit_has_are_refused(learned, part, values):
    body = json.loads(learned.to_json())
    body[part] = [row | values for row in body[part]]
    with pytest.raises(InputError, match="this fit is damaged"):
        Surrogate.from_json(json.dumps(body))


def test_a_covariance_below_0_and_a_lesson_without_parameters_are_refused(learned):
    body = json.loads(learned.to_json())
    negative = [row | {"covariance": [-value for value in row["covariance"]]} for row in body["marginals"]]
    learned_at = {(lesson["engine"], lesson["gpu"]) for lesson in body["lessons"]}
    elsewhere = [row for row in body["marginals"] if (row["engine"], row["gpu"]) not in learned_at]
    for marginals in (negative, elsewhere):
        with pytest.raises(InputError, match="this fit is damaged"):
            Surrogate.from_json(json.dumps(body | {"marginals": marginals}))


def test_a_fit_that_cannot_be_written_whole_leaves_the_one_before(learned, tmp_path, monkeypatch):
    path = tmp_path / "fit.json"
    learned.write(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("catalog.borders.os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        learned.write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_lessons_of_other_types_are_refused(learned):
    body = json.loads(learned.to_json())
    for name, value in (
        ("runs", "many"),
        ("engine", 3),
        ("moves", [{"name": "gemm_us"}]),
        ("accuracy", [{"held": "x"}]),
    ):
        changed = body | {"lessons": [body["lessons"][0] | {name: value}]}
        with pytest.raises(InputError):
            Surrogate.from_json(json.dumps(changed))


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"{}", b"[]", b""])
def test_what_is_no_fit_is_refused(tmp_path, content):
    path = tmp_path / "fit.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"fit\.json"):
        Surrogate.read(path)


@pytest.mark.parametrize("runs", [[], [replace(SLOW[0], role="validate")], [replace(SLOW[0], oom=True)], SHIPPED[:3]])
def test_nothing_new_is_nothing_to_fit(runs):
    with pytest.raises(InputError, match="none has times"):
        advisor.fit(runs)


def test_without_runs_of_one_s_own_it_says_what_to_name():
    with pytest.raises(InputError, match=r"advisor fit runs\.jsonl"):
        advisor.fit()


def test_own_runs_are_those_in_the_home(home):
    append_runs(home / "runs" / "own.jsonl", SLOW[:4])
    assert advisor.fit().lessons[0].runs == 4


@pytest.mark.parametrize(
    ("fingerprint", "platform"),
    [
        ("", Platform(engine_version="0.24")),
        ("rack 7", Platform(engine_version="0.24")),
        ("[1]", Platform(engine_version="0.24")),
        ('{"driver":"550.90.07","sm_mhz":1410,"more":1}', Platform(engine_version="0.24", driver="550", sm_mhz=1410)),
        ('{"driver":null,"sm_mhz":"fast"}', Platform(engine_version="0.24")),
    ],
)
def test_platforms_are_read_from_any_fingerprint(fingerprint, platform):
    assert platform_of(replace(SLOW[0], fingerprint=fingerprint)) == platform


def test_only_what_both_state_can_disagree():
    known = Platform(engine_version="0.24", driver="580", sm_mhz=1980)
    assert disagreements([known, Platform()], engine="vllm", version="0.24.0") == []
    assert disagreements([replace(known, engine_version="2.11")], engine="torch", version="2") == []
    told = disagreements([known, replace(known, driver="550")], engine="vllm", version="0.30.0")
    assert [("driver" in text, "0.30" in text) for text in told] == [(True, False), (False, True)]


# -- the command -----------------------------------------------------------------------------------------------------


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_tells_writes_and_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    runs, path = tmp_path / "own.jsonl", tmp_path / "fit.json"
    append_runs(runs, SLOW)
    text = run("fit", str(runs), "-o", str(path))
    assert f"{len(SLOW)} runs" in text
    assert "from what ships (calibrated)" in text
    assert "tpot_ms" in text
    question = ["estimate", "--model", "llama-13b", "--gpus", "1xH200", "--batch", "20", "--format", "json"]
    with_fit, without = (json.loads(run(*question, *more)) for more in (["--fit", str(path)], []))
    assert with_fit["tpot_ms"] > 1.1 * without["tpot_ms"]
    assert any("fitted to" in note["text"] for note in with_fit["notes"])
    rows = json.loads(run("fit", str(runs), "--format", "json"))["lessons"][0]["accuracy"]
    assert {row["metric"] for row in rows} >= {"tpot_ms", "prefill_ms"}


def test_two_grounds_for_one_answer_are_refused():
    question = ["estimate", "--model", "llama-13b", "--gpus", "1xH200", "--batch", "1", "--runs", "a", "--fit", "b"]
    assert "leave out one" in run(*question, code=2)


def timed(us_of, gpu):
    """A file's rows of matrix products on some GPU, as the probe writes them."""
    shapes = [(m, k, n) for m in (1, 64, 4096) for k, n in ((4096, 4096), (4096, 14336), (8192, 8192))]
    return "".join(
        json.dumps({"gpu": gpu, "op": "gemm", "dtype": "bfloat16", "m": m, "k": k, "n": n, "us": us_of(m, k, n)}) + "\n"
        for m, k, n in shapes
    )


def test_kernels_alone_inform_both_engines_of_a_gpu(tmp_path):
    """Half of what the memory of a GPU that nobody measured should give: answers for it get slower, and stay as unsure of
    all else."""
    gpu = find_gpu("H20").value
    path = tmp_path / "kernels.jsonl"
    bandwidth, peak = gpu.memory_bandwidth_gbps * 1e3, gpu.fp16_tflops * 1e6
    path.write_text(
        timed(lambda m, k, n: 4.0 + max(2 * k * n / (0.4 * bandwidth), 2 * m * k * n / (0.6 * peak)), gpu.name)
    )
    found = advisor.fit((), kernels=path)
    before, after = (each.marginal("vllm", gpu.name) for each in (shipped_surrogate(), found))
    assert before.parameters.gemm_memory > 0.75
    assert after.parameters.gemm_memory < 0.8 * before.parameters.gemm_memory
    assert after.provenance == before.provenance
    assert [(lesson.engine, lesson.runs, lesson.kernels) for lesson in found.lessons] == [
        ("torch", 0, 9),
        ("vllm", 0, 9),
    ]
    free = NAMES.index("layer_host_us")
    assert after.covariance[free, free] == pytest.approx(before.covariance[free, free], rel=0.02)
    asked = {"batch": 1, "input_len": 128, "output_len": 64}
    slow, fast = (advisor.estimate("llama-3.1-8b", f"1x{gpu.name}", runs=runs, **asked) for runs in (found, None))
    assert slow.tpot_ms > 1.2 * fast.tpot_ms
    assert Surrogate.from_json(found.to_json()).lessons == found.lessons


def test_the_command_takes_kernels_and_tells_of_them(tmp_path):
    path, written = tmp_path / "kernels.jsonl", tmp_path / "fit.json"
    path.write_text(timed(lambda m, k, n: 10.0 + 2 * k * n / 3e6 + m / 100, "H200-SXM"))
    said = CliRunner().invoke(
        app, ["fit", "--kernels", str(path), "-o", str(written)], env={"ADVISOR_HOME": str(tmp_path)}
    )
    assert said.exit_code == 0, said.output
    assert "9 kernel times" in said.output
    assert written.exists()
    wrong = CliRunner().invoke(
        app, ["fit", "--kernels", str(tmp_path / "none.jsonl")], env={"ADVISOR_HOME": str(tmp_path)}
    )
    assert wrong.exit_code != 0
    assert "none.jsonl" in wrong.output
