"""What the commands answer, in every format, and that each says what it does."""

import csv
import io
import json
import math
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import advisor
from advisor.cli import app
from advisor.cli.options.values import ANSWER_FORMATS
from advisor.recommendation.problem import OBJECTIVES
from catalog.engines import FORMATS, all_engines
from catalog.gpus import all_gpus
from catalog.models.find import all_models
from catalog.schema import Slo, Workload

QUESTION = ["--model", "llama-13b", "--gpus", "2xA100"]
IMPOSSIBLE = [*QUESTION, "--concurrency", "1", "--tpot", "2"]
"""One request in flight: the search for a cluster that would do is short."""
ROOT = get_command(app)
COMMANDS = {
    **ROOT.commands,
    **{f"catalog {name}": command for name, command in ROOT.commands["catalog"].commands.items()},
}
LAYOUT = re.compile(r"^[> ] +(?:(\d+) x )?TP(\d+) PP(\d+) +(\d+) ", re.MULTILINE)
"""A row of the ranking, which is shown where a limit is stated."""
CHOICE = re.compile(r"^(?:most throughput|balanced|fastest) +(?:(\d+) x )?TP(\d+) PP(\d+) +(\d+) ", re.MULTILINE)
"""A named choice, which is shown where none is."""


@pytest.fixture(autouse=True)
def _narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def run(*arguments, code=0, **options):
    result = CliRunner().invoke(app, list(arguments), **options)
    assert result.exit_code == code, result.output
    return result


def out(*arguments, **options):
    return run(*arguments, **options).stdout


def table(text):
    rows = [line.strip().strip("|").split(" | ") for line in text.strip().splitlines()]
    return [[cell.strip() for cell in row] for row in rows]


# -- help ------------------------------------------------------------------------------------------------------------


def test_the_commands_are_those_of_this_version():
    assert set(ROOT.commands) == {
        "recommend",
        "which",
        "estimate",
        "simulate",
        "plan",
        "fleet",
        "autoscale",
        "observe",
        "train",
        "explore",
        "probe",
        "tune",
        "fit",
        "validate",
        "export",
        "import",
        "catalog",
        "app",
        "serve",
        "mcp",
    }
    assert set(ROOT.commands["catalog"].commands) == {"models", "gpus", "prices", "engines"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    command = COMMANDS[name]
    assert command.help
    assert all(parameter.help for parameter in command.params)
    text = out(*name.split(), "--help")
    for parameter in command.params:
        for spelled in parameter.opts if parameter.param_type_name == "option" else []:
            assert spelled in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns_and_says_what_follows_the_name(name):
    text = out(*name.split(), "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith(f"Usage: advisor {name} ")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command_with_a_whole_sentence(arguments):
    text = out(*arguments)
    for name in ROOT.commands:
        assert re.search(rf"^  {name}\s+[A-Z].*\.$", text, re.MULTILINE)
    assert "..." not in text.partition("\n")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_a_command_brings_nothing_of_the_others():
    script = (
        "import sys; from advisor.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(*(name for name in sys.modules if name.startswith('advisor.cli.commands.')), file=sys.stderr)"
    )
    for arguments, brought in ((["--help"], ""), (["estimate", "--help"], "advisor.cli.commands.estimate_command")):
        ended = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=300
        )
        assert (ended.returncode, ended.stderr.strip()) == (0, brought)


def test_examples_in_help_are_commands_that_work():
    examples = re.findall(
        r"^ +advisor (recommend|estimate|catalog) (.*)$",
        "\n".join(out(*name.split(), "--help") for name in ("recommend", "estimate", "catalog")),
        re.MULTILINE,
    )
    assert len(examples) >= 8
    for command, rest in examples:
        words = shlex.split(re.sub(r" {3,}.*", "", rest))
        run(command, *words)


def test_choices_in_help_are_all_there_are():
    text = " ".join(out("recommend", "--help").split())
    for objective in OBJECTIVES:
        assert objective in text
    for name in ("recommend", "which", "estimate", "import"):
        engines = " ".join(out(name, "--help").split())
        for engine in all_engines():
            assert engine.name in engines
    for chosen in ANSWER_FORMATS:
        assert chosen in text
    exported = " ".join(out("export", "--help").split())
    for chosen in FORMATS:
        assert chosen in exported


def test_flags_are_those_of_vllm():
    options = {spelled for parameter in COMMANDS["estimate"].params for spelled in parameter.opts}
    theirs = [
        "--model",
        "--tensor-parallel-size",
        "--pipeline-parallel-size",
        "--data-parallel-size",
        "--dtype",
        "--kv-cache-dtype",
        "--max-num-seqs",
        "--max-num-batched-tokens",
        "--max-model-len",
        "--gpu-memory-utilization",
    ]
    assert options >= {*theirs, "--tp", "--pp", "--dp", "--ep", "--isl", "--osl", "--kv-dtype"}


def test_version():
    assert out("--version").split() == ["advisor", advisor.__version__]


# -- recommend -------------------------------------------------------------------------------------------------------


def test_a_recommendation_reads_as_designed():
    text = out("recommend", *QUESTION)
    lines = text.splitlines()
    assert lines[0].startswith("meta-llama/Llama-2-13b-hf")
    for told in ("float16", "2 x A100-SXM-80GB", "vllm", "1024 in / 256 out"):
        assert told in "\n".join(lines[:3])
    assert '"llama-13b" read as meta-llama/Llama-2-13b-hf' in out("recommend", *QUESTION, "--wide")
    labels = re.findall(r"^(\w+) {2,}\S", text, re.MULTILINE)
    told = [label for label in labels if label != "note"]
    assert told[:4] == ["answer", "choice", "balanced", "fastest"]  # named choices, since no limit is stated
    assert told[4:7] == ["limits", "client", "cost"]
    assert told[-2:] == ["run", "next"]
    assert not {"why", "memory", "source", "search"} & set(told)
    text = out("recommend", *QUESTION, "--tpot", "60")
    assert text.count("\n>  ") == 1
    rows = LAYOUT.findall(text)
    assert rows == list(dict.fromkeys(rows))
    assert 1 <= len(rows) <= 3
    assert all(int(dp or 1) * int(tp) * int(pp) <= 2 for dp, tp, pp, _ in rows)


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_no_line_is_wider_than_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = out("recommend", "--model", "mixtral-8x7b", "--gpus", "8xH100", "--dtype", "auto", "--dtype", "fp8")
    assert max(map(len, text.splitlines())) <= columns
    for name in ("batch", "tok/s", "90% interval", "TTFT", "TPOT"):
        assert name in text
    assert "…" not in text


def test_a_wider_terminal_and_wide_show_more(monkeypatch):
    narrow = out("recommend", *QUESTION)
    wide = out("recommend", *QUESTION, "--wide")
    monkeypatch.setenv("COLUMNS", "200")
    wider = out("recommend", *QUESTION, "--tpot", "60")
    assert "E2E" not in narrow
    assert "E2E" in wider
    for more in ("KV dtype", "KV room", "What explains", "Not beaten in both"):
        assert more in wide
        assert more not in narrow


def test_the_command_in_the_text_is_the_one_in_the_answer():
    text = out("recommend", *QUESTION)
    shown = re.search(r"^run {6}(.*?)^next", text, re.MULTILINE | re.DOTALL)[1]
    assert (
        shlex.split(shown.replace("\\\n", " "))
        == json.loads(out("recommend", *QUESTION, "--format", "json"))["command"]
    )


def test_a_deployment_of_several_servers_says_so():
    text = out("recommend", *QUESTION, "--engine", "sglang", "--ttft", "300", "--top", "1")
    servers = int(LAYOUT.search(text)[1] or 1)
    assert ("# the first of 2 processes" in text) == (servers == 2)
    alone = out("recommend", "--model", "llama-13b", "--gpus", "A100")
    assert "processes" not in alone


def test_rows_are_ranked_by_the_objective():
    ends = (("throughput_per_gpu", "output_tok_s_per_gpu_low", max), ("latency", "e2e_ms_high", min))
    for objective, column, best in ends:  # the ends that can be bet on
        text = out("recommend", *QUESTION, "--objective", objective, "--format", "csv")
        values = [float(row[column]) for row in csv.DictReader(io.StringIO(text))]
        assert len(values) > 1
        assert values[0] == pytest.approx(best(values), rel=0.011)


def test_an_objective_is_in_the_table_with_its_interval():
    text = out("recommend", *QUESTION, "--objective", "latency", "--concurrency", "8")
    heading = next(line for line in text.splitlines() if "E2E" in line and "batch" in line)
    assert re.search(r"E2E +90% interval", heading)
    assert "8 in flight" in text


def test_limits_and_prices_are_shown():
    text = out("recommend", *QUESTION, "--tpot", "60", "--price", "2.5")
    assert "TPOT <= 60 ms" in text
    assert re.search(r"^cost +\$[\d.]+ per million output tokens", text, re.MULTILINE)
    assert "$5.00 an hour" in text


def test_top_limits_the_layouts():
    for top in (1, 2):
        assert len(LAYOUT.findall(out("recommend", *QUESTION, "--tpot", "100", "--top", str(top)))) == top


def test_without_limits_three_choices_are_named():
    rows = CHOICE.findall(out("recommend", *QUESTION))
    assert len(rows) == 3
    assert [int(batch) for *_, batch in rows] == sorted((int(batch) for *_, batch in rows), reverse=True)
    assert not LAYOUT.search(out("recommend", *QUESTION))


def test_a_study_is_kept_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = out("recommend", *QUESTION, "--storage", "study.journal", "--study-name", "mine", "--wide")
    assert "study mine in study.journal" in " ".join(text.split())
    assert (tmp_path / "study.journal").stat().st_size > 0


# -- formats ---------------------------------------------------------------------------------------------------------


def constants(name):
    raise AssertionError(f"{name} is no JSON")


def told(text, chosen):
    body = json.loads(text, parse_constant=constants) if chosen == "json" else yaml.safe_load(text)
    body.pop("study_name", None)  # a new one each time
    return body


def written(answer):
    """What the library's answer is where it is written: numbers that are not whole to six significant digits."""

    def rounded(digits):
        number = float(digits)
        return number if number.is_integer() else float(f"{number:.6g}")

    body = json.loads(json.dumps(answer.to_dict()), parse_float=rounded)
    body.pop("study_name", None)
    return body


@pytest.mark.parametrize("chosen", ["json", "yaml"])
def test_json_and_yaml_are_what_the_library_says(chosen):
    question = {"workload": Workload(input_len=512, output_len=64), "slo": Slo(tpot_ms=50.0)}
    found = told(out("recommend", *QUESTION, "--isl", "512", "--osl", "64", "--tpot", "50", "--format", chosen), chosen)
    assert found == written(advisor.recommend("llama-13b", "2xA100", **question))
    found = told(out("estimate", *QUESTION, "--tp", "2", "--batch", "8", "--format", chosen), chosen)
    assert found == written(advisor.estimate("llama-13b", "2xA100", tp=2, batch=8, input_len=1024, output_len=256))


def test_csv_is_the_frame():
    rows = list(csv.DictReader(io.StringIO(out("recommend", *QUESTION, "--format", "csv"))))
    frame = advisor.recommend("llama-13b", "2xA100").to_frame()
    assert list(rows[0]) == list(frame.columns)
    for row, expected in zip(rows, frame.to_dict("records"), strict=True):
        for name, value in expected.items():
            if isinstance(value, float) and math.isfinite(value):
                assert float(row[name]) == pytest.approx(value)
            elif isinstance(value, (int, str)):
                assert row[name] == str(value)
            else:
                assert row[name] == ""


def test_markdown_is_a_pipe_table_with_units():
    head, rule, *rows = table(out("recommend", *QUESTION, "--format", "markdown"))
    assert {"TTFT (ms)", "TPOT (ms)", "90% interval"} <= set(head)
    assert all(set(cell) <= set(":-") for cell in rule)
    assert len(rows) == 3
    assert all(len(row) == len(head) for row in rows)


def test_numbers_have_three_significant_digits():
    head, _, *rows = table(out("recommend", *QUESTION, "--format", "markdown"))
    for name in ("tok/s (per GPU)", "TTFT (ms)", "TPOT (ms)"):
        for row in rows:
            digits = row[head.index(name)].replace(".", "").lstrip("0")
            assert len(digits.rstrip("0")) <= 3


@pytest.mark.parametrize("kind", ["models", "gpus", "prices", "engines"])
def test_every_format_holds_the_whole_catalog(kind):
    body = json.loads(out("catalog", kind, "--format", "json"), parse_constant=constants)
    bodies = body["entries"]
    assert len(bodies) == {"models": len(all_models()), "gpus": len(all_gpus())}.get(kind, len(bodies)) > 3
    assert yaml.safe_load(out("catalog", kind, "--format", "yaml")) == body
    assert len(list(csv.DictReader(io.StringIO(out("catalog", kind, "--format", "csv"))))) == len(bodies)
    assert len(table(out("catalog", kind, "--format", "markdown"))) == len(bodies) + 2
    assert len(out("catalog", kind).splitlines()) == len(bodies) + 2


# -- estimate --------------------------------------------------------------------------------------------------------


def test_an_estimate_reads_as_designed():
    text = out("estimate", *QUESTION, "--tp", "2", "--batch", "8")
    for metric in ("output tokens per GPU", "TTFT, mean", "TPOT, mean", "prefill of the batch", "E2E of the batch"):
        assert re.search(rf"^{metric} +[\d.]+ +(ms|tok/s) +\([\d.]+-[\d.]+\)$", text, re.MULTILINE)
    assert "TP2 PP1" in text
    assert "all at once" in text
    assert re.search(r"^memory +weights [\d.]+ \| KV cache", text, re.MULTILINE)


def test_an_estimate_says_how_many_gpus_it_uses():
    assert "(1 of 2 GPUs)" in out("estimate", *QUESTION, "--batch", "8")


def test_products_are_reported_on_request():
    command = ("estimate", *QUESTION, "--tp", "2", "--batch", "8")
    text = out(*command, "--products")
    for name in ("qkv", "gate_up", "down", "lm_head"):
        assert len(re.findall(rf"^(?:prefill|decode) +{name} ", text, re.MULTILINE)) == 2
    assert "gate_up" not in out(*command)
    rows = list(csv.DictReader(io.StringIO(out(*command, "--products", "--format", "csv"))))
    assert {row["bound"] for row in rows} <= {"compute", "memory", "communication", "overhead"}


def test_a_batch_beyond_memory_is_flagged_and_answered():
    text = out("estimate", *QUESTION, "--batch", "5000")
    assert re.search(r"^warning +of 5000 requests \d+ run at once", text, re.MULTILINE)
    assert re.search(r"^output tokens +\d", text, re.MULTILINE)


def test_a_what_if_gpu_is_another_gpu():
    command = ("estimate", *QUESTION, "--batch", "8", "--format", "json")
    base, faster = (json.loads(out(*command, *more)) for more in ((), ("--set-gpu", "memory_bandwidth_gbps=6000")))
    assert faster["tpot_ms"] < base["tpot_ms"]
    assert "memory_bandwidth_gbps=6000" in faster["cluster"]


def test_named_runs_are_the_only_evidence(tmp_path):
    runs = tmp_path / "runs.jsonl"
    runs.write_text("")
    command = ("estimate", "--model", "llama-13b", "--gpus", "H200", "--batch", "8", "--format", "json")
    assert json.loads(out(*command))["provenance"] == "calibrated"
    assert json.loads(out(*command, "--runs", str(runs)))["provenance"] == "analytic"


# -- nothing feasible ------------------------------------------------------------------------------------------------


def test_nothing_feasible_says_what_is_nearest_and_what_to_relax():
    text = out("recommend", *IMPOSSIBLE, code=1)
    assert "nothing feasible, nearest:" in text
    assert re.search(r"^why +TPOT [\d.]+ ms, above 2 ms$", text, re.MULTILINE)
    assert re.search(r"^relax +TPOT limit of [\d.]+ ms instead of 2 ms$", text, re.MULTILINE)
    assert "\nrun " not in text


def test_nothing_that_fits_says_how_much_is_missing():
    text = " ".join(out("recommend", "--model", "llama-70b", "--gpus", "A100", code=1).split())
    assert "the checkpoint has 128 GiB, the GPUs 79.2 GiB in all" in text
    assert "relax fp8 weights" in text


@pytest.mark.parametrize("chosen", ["json", "csv", "markdown", "yaml"])
def test_nothing_feasible_in_every_format(chosen):
    result = run("recommend", *IMPOSSIBLE, "--format", chosen, code=1)
    if chosen in {"json", "yaml"}:
        body = told(result.stdout, chosen)
        assert body["best"] is None
        assert body["nearest"]["tpot_ms"] > 2
        assert body["relaxations"]
        assert result.stderr == ""
    else:
        assert len(result.stderr.splitlines()) == 1
        assert "instead of 2 ms" in result.stderr


def test_an_estimate_that_does_not_fit_says_what_would():
    text = out("estimate", "--model", "llama-70b", "--gpus", "4xA100", "--batch", "2", code=1)
    assert "does not fit" in text
    assert re.search(r"^warning +out of memory", text, re.MULTILINE)
    layout = re.search(r"^relax +--tp (\d) --pp (\d):", text, re.MULTILINE)
    run("estimate", "--model", "llama-70b", "--gpus", "4xA100", "--batch", "2", "--tp", layout[1], "--pp", layout[2])


# -- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", FORMATS)
def test_export_writes_every_format(target):
    text = out("export", *QUESTION, "--format", target)
    assert "meta-llama/Llama-2-13b-hf" in text
    if target in {"compose", "kubernetes"}:
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(text))


def test_export_without_a_layout_is_the_recommended_one():
    command = json.loads(out("recommend", *QUESTION, "--format", "json"))["command"]
    assert shlex.join(command) in out("export", *QUESTION)


def test_export_writes_adapters_as_simulate_s_next_states_them():
    from advisor.render.answers.simulation import document
    from advisor.simulator.simulation import simulate
    from catalog.features import Adapters
    from catalog.schema import Deployment

    adapters = Adapters(number=20, max_loras=4, max_cpu_loras=8)
    served = simulate("llama-3.1-8b", "H100", deployment=Deployment(adapters=adapters), rate=1, duration_s=5, draws=0)
    (command,) = (section.command for section in document([served]).sections if section.command)
    text = out(*command.argv[1:])
    assert "--enable-lora --max-loras 4 --max-cpu-loras 8 --max-lora-rank 16" in text
    assert "--lora-adapters 20" in shlex.join(command.argv)


def test_export_drafts_for_the_load_that_is_stated():
    stated = ("export", "--model", "llama-3.1-8b", "--gpus", "H100", "--tp", "1", "--speculate", "ngram")
    lengths = [
        int(re.search(r'"num_speculative_tokens": (\d+)', out(*stated, *load))[1])
        for load in ((), ("--concurrency", "256"))
    ]
    assert lengths[1] < lengths[0]


def test_export_with_a_layout_is_that_one():
    text = out("export", *QUESTION, "--tp", "1", "--pp", "2", "--max-num-seqs", "17")
    assert "--pipeline-parallel-size 2" in text
    assert "--max-num-seqs 17" in text


def test_export_follows_the_engine():
    assert "sglang.launch_server" in out("export", *QUESTION, "--tp", "2", "--engine", "sglang")


@pytest.mark.parametrize("layout", [(), ("--tp", "1")])
def test_export_of_what_does_not_fit(layout):
    result = run("export", "--model", "llama-70b", "--gpus", "A100", *layout, code=1)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


# -- catalog ---------------------------------------------------------------------------------------------------------


def test_one_model_is_told_in_full():
    text = out("catalog", "models", "llama-13b")
    assert "13,015,864,320 (13.0 B)" in text
    assert re.search(r"^kv_bytes_per_token +819,200$", text, re.MULTILINE)
    assert re.search(r"^source +\S", text, re.MULTILINE)


def test_kv_bytes_of_latent_attention():
    body = json.loads(out("catalog", "models", "deepseek-v3", "--format", "json"))
    assert body["kv_bytes_per_token"] == 61 * (512 + 64) * 2
    assert body["active_parameters"] < body["parameters"] / 10


def test_a_part_of_a_name_lists_those_that_have_it():
    names = [line.split()[0] for line in out("catalog", "models", "mixtral").splitlines()[2:]]
    assert len(names) >= 2
    assert all("mixtral" in name.lower() for name in names)
    assert len(out("catalog", "gpus", "h100").splitlines()) > 3


def test_a_config_is_a_model_too(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
        "max_position_embeddings": 512,
        "torch_dtype": "float16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert json.loads(out("catalog", "models", str(tmp_path), "--format", "json"))["hidden_size"] == 64


def test_one_gpu_and_one_engine_are_told_in_full():
    assert re.search(r"^memory_bandwidth_gbps +3350", out("catalog", "gpus", "H100-SXM"), re.MULTILINE)
    assert re.search(r"^min_capability +\d", out("catalog", "engines", "vllm"), re.MULTILINE)


def test_prices_by_gpu_and_by_provider():
    assert {row.split()[0] for row in out("catalog", "prices", "H100").splitlines()[2:]} >= {"H100-SXM"}
    assert len(out("catalog", "prices", "lambda").splitlines()) > 2


def test_the_overview_counts():
    text = out("catalog")
    assert re.search(rf"^advisor catalog models +{len(all_models())}$", text, re.MULTILINE)
    for name in ("gpus", "prices", "engines"):
        assert re.search(rf"^advisor catalog {name} +[1-9]", text, re.MULTILINE)


# -- validate --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_validation_tells_claims_errors_and_what_lies_outside():
    text = out("validate", "--no-refit", "--no-baselines")
    assert re.search(r"^(holds|FAILS) +A100, plain PyTorch", text, re.MULTILINE)
    assert re.search(r"^in-sample +vllm +static +TP +tpot_ms +\d+ +\d+\.\d% +\d+%$", text, re.MULTILINE)
    assert re.search(r"^\d+ of \d+ checks outside their 90% interval", text, re.MULTILINE)
    rows = list(csv.DictReader(io.StringIO(out("validate", "--no-refit", "--no-baselines", "--format", "csv"))))
    assert {"measured", "predicted", "low", "high", "split"} <= set(rows[0])
    body = json.loads(out("validate", "--no-refit", "--no-baselines", "--format", "json"), parse_constant=constants)
    assert len(body["checks"]) == len(rows)


# -- configuration ---------------------------------------------------------------------------------------------------


def configured(tmp_path, text):
    path = tmp_path / "advisor.yaml"
    path.write_text(text)
    return ("--config", str(path))


def test_options_come_from_a_file_and_what_is_typed_wins(tmp_path):
    config = configured(tmp_path, "model: llama-13b\ngpus: 2xA100\nbatch: 8\nisl: 300\noutput_len: 20\ntp: 2\n")
    body = json.loads(out("estimate", *config, "--format", "json", "--batch", "4"))
    assert (body["batch"], body["input_len"], body["output_len"], body["deployment"]["tp"]) == (4, 300, 20, 2)
    body = json.loads(out("estimate", "--tp", "1", *config, "--format", "json", "--input-len", "200"))
    assert (body["batch"], body["input_len"], body["deployment"]["tp"]) == (8, 200, 1)


def test_lists_and_mappings_in_a_file_repeat_an_option(tmp_path):
    config = configured(
        tmp_path, "dtype: [auto, fp8]\nset-gpu: {memory_bandwidth_gbps: 6000}\nwide: true\nprice: 2\nruns: null\n"
    )
    text = out("recommend", "--model", "llama-13b", "--gpus", "2xH100", *config)
    assert "memory_bandwidth_gbps=6000" in text
    assert "KV room" in text
    assert {"float16", "fp8"} & set(text.split())
    only = out("recommend", "--model", "llama-13b", "--gpus", "2xH100", *config, "--dtype", "auto")
    assert " fp8 " not in only


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modle: llama-13b", "closest: model"),
        ("config: other.yaml", "has no option 'config'"),
        ("batch: [1, 2]", "batch is a list; it must be text or a number"),
        ("batch: true", "batch is true; it must be text or a number"),
        ("wide: 3", "wide is 3; it must be true or false"),
        ("batch: two", "advisor.yaml)"),
        ("isl: 3\ninput-len: 4", "given twice"),
        ("- model", "must hold option names and values"),
        ("model: [", "is not valid YAML (line 1)"),
        ("model: !!python/object/apply:os.system [true]", "is not valid YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nmodel: [*b, *b]", "has no option 'a'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line(tmp_path, text, told):
    batch = () if "batch" in text else ("--batch", "8")
    result = run("estimate", *QUESTION, *batch, *configured(tmp_path, text), code=2)
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_or_huge_is_refused(tmp_path):
    assert "cannot read" in run("estimate", "--config", str(tmp_path / "none.yaml"), code=2).stderr
    assert "cannot read" in run("estimate", "--config", str(tmp_path), code=2).stderr
    huge = configured(tmp_path, "model: " + "x" * 2_000_000)
    assert "larger than 1000 kB" in run("estimate", *huge, code=2).stderr


def test_sglangs_share_is_stated_in_its_own_words():
    """The option's other name; the command that starts the engine passes what was stated."""
    line = "export --model llama-3.1-8b --gpus 1xRTX4090 --tp 1 --engine sglang --mem-fraction-static 0.8"
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0
    assert "--mem-fraction-static 0.8 " in result.output


# -- CO2 -------------------------------------------------------------------------------------------------------------


def test_co2_is_reported_where_it_is_asked_for():
    asked = ("estimate", "--model", "llama-3.1-8b", "--gpus", "1xH200", "--batch", "8", "--grid-intensity", "France")
    text = out(*asked, "--pue", "1.5")
    assert "kg a million output tokens (0.056 kg/kWh, France 2023, PUE 1.5" in " ".join(text.split())
    shares = re.search(r"CO2 +(\S+) \((\S+)-(\S+)\) kg .*", text)
    joules = re.search(r"energy +(\S+) \((\S+)-(\S+)\) J .*", text)
    for kilograms, each in zip(shares.groups(), joules.groups(), strict=True):
        assert float(kilograms) == pytest.approx(float(each) / 3.6 * 0.056 * 1.5, rel=0.01)
    body = json.loads(out(*asked, "--format", "json"))
    assert body["co2"]["kg_co2_per_mtok"] == pytest.approx(body["energy_j_per_token"] / 3.6 * 0.056, rel=1e-4)
    assert "CO2" not in out(*asked[:-2])
    assert "no run measured the energy" in out(*asked[:4], "1xL4", *asked[5:])
