"""The command as a process: pipes that close, terminals, colour, completion, signals, and what it imports."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
QUESTION = ["--model", "llama-13b", "--gpus", "A100"]
MAIN = [sys.executable, "-c", "import sys; sys.argv[0] = 'advisor'; from advisor.cli import main; main()"]


@pytest.fixture
def environment():
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
    found = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": found, "TERM": "xterm-256color"}


@pytest.fixture
def start(environment, tmp_path):
    def run(*arguments, **options):
        options = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 120} | options
        return subprocess.run([*MAIN, *arguments], check=False, env=environment | options.pop("env", {}), **options)

    return run


def on_terminal(arguments, environment, *, columns=100):
    """stdout, stderr together as a terminal of that width gets them, and the exit code."""
    ours, theirs = pty.openpty()
    environment = environment | {"COLUMNS": str(columns)}
    with subprocess.Popen([*MAIN, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        data = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end has closed
                break
            if not chunk:
                break
            data += chunk
    os.close(ours)
    return data.decode(), process.returncode


def test_python_m_is_the_command(environment):
    done = subprocess.run(
        [sys.executable, "-m", "advisor", "--version"],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("advisor ")


def test_a_pipe_has_no_colour_and_no_progress(start):
    done = start("recommend", *QUESTION)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_warnings_are_for_terminals(start, environment, tmp_path):
    runs = tmp_path / "runs.jsonl"
    runs.write_text('{"run_id": "cut')  # what a killed writer leaves
    command = ["estimate", *QUESTION, "--batch", "1", "--runs", str(runs)]
    done = start(*command)
    assert done.returncode == 0
    assert done.stderr == ""
    seen, _ = on_terminal(command, environment)
    assert "advisor: warning: " in seen


def test_a_terminal_has_colour_unless_it_is_not_wanted(environment):
    coloured, code = on_terminal(["recommend", *QUESTION], environment)
    assert code == 0
    assert "\x1b[32m" in coloured or "\x1b[1;32m" in coloured
    plain, code = on_terminal(["catalog", "gpus"], environment | {"NO_COLOR": "1"})
    assert code == 0
    assert not [each for each in range(30, 48) if f"\x1b[{each}m" in plain or f";{each}m" in plain]


def test_json_has_no_colour_on_a_terminal(environment):
    text, _ = on_terminal(["catalog", "models", "llama-13b", "--format", "json"], environment)
    assert "\x1b" not in text
    assert json.loads(text)["name"] == "meta-llama/Llama-2-13b-hf"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("catalog", "models"), 0),
        (("--help",), 0),
        (("catalog", "models", "--format", "json"), 0),
        (("recommend", "--model", "llama-70b", "--gpus", "T4"), 1),
    ],
)
def test_a_closed_pipe_is_silent_and_changes_no_exit_code(environment, arguments, code):
    """When the reader goes is chance: what it would have been had it stayed is the code."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*MAIN, *arguments], check=False, stdout=write, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == code


def test_a_full_disk_is_one_line(start):
    with Path("/dev/full").open("w") as full:
        done = start("catalog", "models", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == "advisor: No space left on device\n"


def test_no_stdout_at_all(environment):
    done = subprocess.run(
        [*MAIN, "catalog", "gpus"],
        check=False,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=lambda: os.close(1),
    )
    assert done.stderr == b""
    assert done.returncode == 0


def test_an_encoding_that_lacks_a_letter_is_no_failure(start, tmp_path):
    folder = tmp_path / "модель"
    folder.mkdir()
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
    (folder / "config.json").write_text(json.dumps(config))
    done = start("catalog", "models", str(folder), env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u043c" in done.stdout


def test_an_interrupt_ends_it_at_once_and_silently(environment, tmp_path):
    arguments = [*MAIN, "validate"]  # takes seconds
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "numpy" not in maps.read_text():  # the command's own, so that Python has long begun
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == b""
    assert err == b""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("advisor recom", "recommend"),
        ("advisor recommend --mod", "--model"),
        ("advisor recommend --model meta-llama/Llama-2-13", "meta-llama/Llama-2-13b-hf"),
        ("advisor recommend --model llama-2-13", "llama-2-13b-hf"),
        ("advisor recommend --gpus 4xH100-S", "4xH100-SXM"),
        ("advisor recommend --engine sg", "sglang"),
        ("advisor recommend --format mark", "markdown"),
        ("advisor catalog mod", "models"),
    ],
)
def test_the_shell_completes(start, typed, offered):
    words = typed.split(" ")
    asked = {"_ADVISOR_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    assert offered in start(env=asked).stdout.split()


def test_completion_can_be_shown(start):
    done = start("--show-completion", env={"SHELL": "/bin/bash"})
    if done.returncode == 0:  # the shell is found out from the parent process
        assert "_ADVISOR_COMPLETE" in done.stdout


HEAVY = {"numpy", "scipy", "pandas", "optuna", "sqlalchemy", "huggingface_hub", "joblib", "sklearn", "torch", "yaml"}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["recommend", "--help"], set()),
        (["catalog", "models"], set()),
        (["estimate", *QUESTION, "--batch", "1"], {"numpy"}),
        (["recommend", *QUESTION], {"numpy", "optuna"}),
    ],
    ids=lambda names: " ".join(sorted(names) if isinstance(names, set) else names),
)
def test_only_what_is_needed_is_imported(environment, arguments, allowed):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr))\n"
        f"sys.argv = {['advisor', *arguments]!r}\n"
        "from advisor.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stderr.split()) <= allowed
