"""Bad usage and bad input: one line that says what was wrong and what would be right, and exit code 2."""

import errno
import json

import pytest
from typer.testing import CliRunner

from advisor.cli import app
from advisor.cli.program import BAD_INPUT, CRASH, INTERRUPTED, MOST, exit_code, message_of, one_line

ESTIMATE = ["estimate", "--model", "llama-13b", "--gpus", "2xA100", "--batch", "8"]
RECOMMEND = ["recommend", "--model", "llama-13b", "--gpus", "2xA100"]


def refused(*arguments):
    """The one line that a command is refused with."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == BAD_INPUT, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("advisor: ")
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # usage
        (["recomend"], ['unknown command "recomend"', "did you mean recommend?"]),
        (
            ["capacity"],
            [
                'unknown command "capacity"',
                "commands: recommend, which, estimate, simulate, plan, fleet, autoscale, observe, train, explore, probe, tune, fit, ",
                "validate, export, app, serve, mcp, import, catalog",
            ],
        ),
        (["catalog", "modles"], ['unknown command "modles"', "did you mean models?"]),
        (["recommend"], ["missing --model", "--model llama-13b"]),
        (["estimate", "--model", "llama-13b", "--gpus", "A100"], ["missing --batch", "--batch 32"]),
        (["recommend", "--gpus"], ["--gpus", "requires an argument"]),
        (["observe", "--model", "llama-3.1-8b", "--gpus", "H100"], ["missing --prometheus", "--prometheus http://"]),
        ([*RECOMMEND, "--lora", "8"], ["takes no --lora", "--lora-adapters"]),
        (["simulate", "--enable-lora"], ["takes no --enable-lora", "--lora-adapters"]),
        (["plan", "--prefill-gpus", "H100"], ["takes no --prefill-gpus", "--disaggregate --gpus H200,H100"]),
        (["plan", "--prefill-replicas", "2"], ["takes no --prefill-replicas", "--disaggregate --gpus H200,H100"]),
        (["simulate", "--disaggregate"], ["takes no --disaggregate", "--prefill-replicas N", "--prefill-gpus"]),
        ([*ESTIMATE, "--prefill-tp", "2"], ["takes no --prefill-tp", "advisor plan --disaggregate"]),
        (
            ["recommend", "--model", "llama-13b", "--gpus", "4xH100+4xA100"],
            ["mixes kinds of GPUs", "4xH100,4xA100", "fleet"],
        ),
        ([*RECOMMEND, "--formt", "json"], ["no such option --formt", "closest: --format"]),
        ([*ESTIMATE, "--trials", "3"], ["has no --trials", "option of recommend"]),
        ([*ESTIMATE, "--rate", "3"], ["has no --rate", "option of simulate, plan and import"]),
        ([*RECOMMEND, "extra"], ["extra"]),
        (["--formt"], ["no such option --formt"]),
        (["recommend", "--pp", "2"], ["option of estimate, simulate, observe, train,", " and import"]),
        (["recommend", "--gpu", "4xA100"], ["has no --gpu", "an option of import", "closest: --gpus"]),
        # names
        (["recommend", "--model", "lama-13x", "--gpus", "A100"], ['unknown model "lama-13x"', "huggyllama/llama-13b"]),
        (["recommend", "--model", "", "--gpus", "A100"], ["no model named"]),
        (["recommend", "--model", "llama-13b", "--gpus", "4xA1000"], ['unknown GPU "A1000"', "A100-SXM-80GB"]),
        ([*RECOMMEND, "--engine", "vlm"], ["unknown engine 'vlm'", "did you mean vllm"]),
        ([*RECOMMEND, "--format", "jsn"], ["--format is 'jsn'", "did you mean json?"]),
        ([*RECOMMEND, "--format", ""], ["it must be one of table, json"]),
        ([*RECOMMEND, "--objective", "throughputs"], ["objective 'throughputs'", "throughput_per_gpu"]),
        ([*RECOMMEND, "--dtype", "fp9"], ["fp9"]),
        (["catalog", "models", "lama-13xb"], ["unknown model", "closest: "]),
        (["catalog", "gpus", "B999"], ["unknown GPU"]),
        (["catalog", "prices", "nobody"], ['no prices match "nobody"']),
        (["catalog", "engines", "sglan"], ["did you mean sglang"]),
        (["export", *RECOMMEND[1:], "--format", "kubernets"], ["did you mean kubernetes?"]),
        # counts
        (["recommend", "--model", "llama-13b", "--gpus", "0xA100"], ["number of GPUs is 0", "from 1 to"]),
        (["recommend", "--model", "llama-13b", "--gpus=-4xA100"], ["number of GPUs is -4"]),
        (["recommend", "--model", "llama-13b", "--gpus", "9" * 30 + "xA100"], ["number of GPUs is 999", "from 1 to"]),
        (["recommend", "--model", "llama-13b", "--gpus", "3xA100x2"], ["unknown GPU"]),
        (["recommend", "--model", "llama-13b", "--gpus", "12xA100"], ["does not divide", "use 8 or 16"]),
        ([*ESTIMATE, "--batch", "0"], ["batch is 0", "above 0"]),
        ([*ESTIMATE, "--batch", "-3"], ["batch is -3", "above 0"]),
        ([*ESTIMATE, "--batch", "1" + "0" * 25], ["batch is 1", "at most 1e+06"]),
        ([*ESTIMATE, "--batch", "2.5"], ["--batch", "valid"]),
        ([*ESTIMATE, "--tp", "0"], ["tp is 0", "above 0"]),
        ([*ESTIMATE, "--pp", "-1"], ["pp is -1"]),
        ([*ESTIMATE, "--dp", "1" + "0" * 20], ["dp is 1"]),
        ([*ESTIMATE, "--tp", "4"], ["4", "2"]),
        (
            ["estimate", "--model", "llama-13b", "--gpus", "3xA100", "--tp", "3", "--batch", "8"],
            ["does not divide", "40 attention heads", "tp can be 1, 2, 4, 8"],
        ),
        ([*ESTIMATE, "--max-num-seqs", "0"], ["max_num_seqs is 0"]),
        ([*ESTIMATE, "--gpu-memory-utilization", "1.5"], ["gpu_memory_utilization is 1.5"]),
        ([*ESTIMATE, "--offload", "2"], ["offload is 2"]),
        ([*RECOMMEND, "--top", "0"], ["top is 0"]),
        ([*RECOMMEND, "--trials", "0"], ["trials is 0"]),
        ([*RECOMMEND, "--concurrency", "0"], ["concurrency is 0"]),
        ([*RECOMMEND, "--price", "-1"], ["price is -1"]),
        ([*RECOMMEND, "--price", "inf"], ["price is inf"]),
        (["validate", "--jobs", "0"], ["--jobs is 0"]),
        # lengths
        ([*ESTIMATE, "--isl", "4000", "--osl", "200"], ["4000 tokens in and 200 out are 4200", "at most 4096"]),
        ([*RECOMMEND, "--isl", "100000"], ["at most 4096"]),
        ([*ESTIMATE, "--isl", "0"], ["input_len is 0"]),
        ([*ESTIMATE, "--max-model-len", "512"], ["above max_model_len: at most 512"]),
        # limits
        ([*RECOMMEND, "--ttft", "500", "--e2e", "100"], ["contradicts itself", "500 ms", "100 ms"]),
        ([*RECOMMEND, "--tpot", "0"], ["tpot_ms is 0"]),
        ([*RECOMMEND, "--ttft", "nan"], ["ttft_ms is nan"]),
        ([*RECOMMEND, "--ttft", "soon"], ["--ttft", "valid"]),
        ([*RECOMMEND, "--rate", "3"], ["takes no --rate", "advisor plan", "concurrency"]),
        ([*RECOMMEND, "--percentile", "99"], ["percentiles", "advisor plan and simulate", "means"]),
        (["export", *RECOMMEND[1:], "--rate", "3"], ["takes no --rate", "advisor plan"]),
        (["export", *RECOMMEND[1:], "--tp", "2", "--tpot", "9"], ["--tpot", "--tp", "leave out one"]),
        # what-if hardware and storage
        ([*ESTIMATE, "--set-gpu", "memory_bandwidth_gbps"], ["must be FIELD=VALUE"]),
        ([*ESTIMATE, "--set-gpu", "memory_bandwith_gbps=3"], ["memory_bandwidth_gbps"]),
        ([*ESTIMATE, "--set-gpu", "memory_gib=-3"], ["memory_gib"]),
        ([*ESTIMATE, "--set-gpu", "memory_gib=3", "--set-gpu", "memory_gib=4"], ["twice"]),
        ([*RECOMMEND, "--storage", "nowhere"], ["neither a URL nor a journal"]),
        # files
        ([*ESTIMATE, "--runs", "/no/such/runs.csv"], ["cannot read /no/such/runs.csv", "No such file"]),
        ([*ESTIMATE, "--fit", "/no/such/fit.json"], ["cannot read /no/such/fit.json", "No such file"]),
        (["fit", "/no/such/runs.jsonl"], ["runs.jsonl", "No such file"]),
        (["estimate", "--model", "/no/such/config.json", "--gpus", "A100", "--batch", "8"], ["No such file"]),
        (["validate", "--published", "/no/such/folder"], ["/no/such/folder"]),
    ],
)
def test_is_refused(arguments, said):
    line = refused(*arguments)
    for words in said:
        assert words in line


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        '{"model_type": "llama"}',
        '{"model_type": "llama", "hidden_size": -1}',
        '{"model_type": "nonsense", "hidden_size": 64}',
        '{"model_type": "llama", "hidden_size": NaN, "num_hidden_layers": 2}',
        '{"model_type": "llama", "hidden_size": "many"}',
        "[" * 100_000,
        json.dumps({"model_type": "llama", "junk": "x" * 10_000_000}),
    ],
    ids=["cut", "list", "missing", "negative", "unknown", "nan", "text", "deep", "10 MB"],
)
def test_a_hostile_config_is_refused(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(config)
    line = refused("estimate", "--model", path, "--gpus", "A100", "--batch", 1)
    assert str(path) in line
    assert len(line) < MOST


def test_unreadable_files_are_refused(tmp_path):
    binary = tmp_path / "runs.csv"
    binary.write_bytes(b"\xff\xfe\x00bad")
    assert str(binary) in refused(*ESTIMATE, "--runs", binary)
    assert "directory" in refused(*ESTIMATE, "--runs", tmp_path).lower()


def test_a_password_is_never_shown():
    line = refused(*RECOMMEND, "--storage", "postgresql://me:secret@nowhere.invalid/db")
    assert "secret" not in line
    assert "***" in line


def test_what_was_typed_comes_back_on_one_printable_line():
    line = refused("recommend", "--model", "\x1b[31mred\nand blue\x07", "--gpus", "A100")
    assert "?[31mred and blue?" in line
    assert line.isprintable()
    assert len(refused("recommend", "--model", "x" * 100_000, "--gpus", "A100")) < MOST + 20
    assert len(one_line("y" * 5000)) == MOST


# -- every other way out ---------------------------------------------------------------------------------------------


def failing(error):
    def run():
        raise error

    return run


def test_an_unexpected_error_is_one_line_that_asks_for_a_report(capsys):
    assert exit_code(failing(ZeroDivisionError("division by zero"))) == CRASH
    (line,) = capsys.readouterr().err.splitlines()
    assert "internal error, ZeroDivisionError: division by zero" in line
    assert "--debug" in line


def test_debug_shows_the_traceback(capsys):
    assert exit_code(failing(ZeroDivisionError("division by zero")), debug=True) == CRASH
    assert "Traceback" in capsys.readouterr().err
    result = CliRunner().invoke(app, [*ESTIMATE, "--debug", "--batch", "0"])
    assert result.exit_code == BAD_INPUT
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("advisor: batch is 0")


def test_the_system_s_errors_are_one_line(capsys):
    assert message_of(PermissionError(errno.EACCES, "Permission denied", "x.csv")) == (
        "x.csv: Permission denied",
        BAD_INPUT,
    )
    assert exit_code(failing(OSError(errno.ENOSPC, "No space left on device"))) == BAD_INPUT
    assert capsys.readouterr().err == "advisor: No space left on device\n"


def test_an_interrupt_and_a_closed_pipe_are_silent(capsys):
    assert exit_code(failing(KeyboardInterrupt())) == INTERRUPTED
    assert capsys.readouterr().err == ""
    assert exit_code(failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 0
    assert capsys.readouterr().err == ""


def test_a_command_that_crashes_is_caught(monkeypatch):
    def estimate(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr("advisor.prediction.estimation.estimate", estimate)
    result = CliRunner().invoke(app, ESTIMATE)
    assert result.exit_code == CRASH
    assert "internal error, RuntimeError: a fault" in result.stderr


def test_a_stated_layout_may_have_alerts_for_its_own_limits():
    words = ["export", "--model", "llama-3.1-8b", "--gpus", "H100", "--tp", "1", "--ttft", "100"]
    assert "--ttft chooses a layout" in refused(*words, "--format", "vllm")
    watched = CliRunner().invoke(app, [*words, "--format", "prometheus", "--concurrency", "64"])
    assert watched.exit_code == 0
    assert "above its limit of 100 ms" in watched.output
