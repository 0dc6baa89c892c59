"""Eight workers in one study, some of which die: no trial is lost, none is there twice, and no answer is worse than what is held."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest

from search.storage import open_storage
from tests.search.serving import directions

WORKERS, DYING = 8, 2
ROOT = Path(__file__).resolve().parents[2]
WORK = """
import sys
sys.path.insert(0, {root!r})
from search.study import explore
from tests.search.serving import Serving, deployments, directions
result = explore(deployments(1, batches=32), Serving(1), directions=directions(1), trials=25, storage={storage!r},
                 study_name="shared", seed={seed})
print(float(result.scores.values[0, 0]), flush=True)
"""


def binaries():
    """Folder of PostgreSQL's programs, Debian's included."""
    place = shutil.which("initdb")
    found = [Path(place).resolve().parent] if place else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else None


@pytest.fixture(scope="module")
def postgresql():
    """A server of its own on loopback, as a user who may run one."""
    pytest.importorskip("psycopg")
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed")
    place = Path(tempfile.mkdtemp(prefix="advisor-postgresql-"))
    root = os.geteuid() == 0
    owner = {"user": "postgres"} if root else {}
    if root:
        shutil.chown(place, "postgres")
    data, sockets = place / "data", place / "run"
    quiet = {"stdout": subprocess.DEVNULL, "cwd": "/", **owner}
    subprocess.run([folder / "initdb", "-D", data, "-A", "trust", "-U", "advisor", "--no-sync"], check=True, **quiet)
    sockets.mkdir()
    if root:
        shutil.chown(sockets, "postgres")
    port = 20000 + os.getpid() % 20000
    options = f"-p {port} -k {sockets} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [folder / "pg_ctl", "-D", data, "-l", place / "run" / "log", "-w"]
    subprocess.run([*control, "-o", options, "start"], check=True, **quiet)
    try:
        yield f"postgresql+psycopg://advisor@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, **quiet)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(params=["postgresql", "sqlite", "journal"])
def storage(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else str(tmp_path / "study.journal")


def held_trials(storage):
    opened = open_storage(storage)
    try:
        return optuna.load_study(study_name="shared", storage=opened).get_trials()
    finally:
        if isinstance(opened, optuna.storages.RDBStorage):
            opened.engine.dispose()


def worker(storage, seed):
    code = WORK.format(root=str(ROOT), storage=storage, seed=seed)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # psycopg's, at the end
def test_no_trial_is_lost_or_doubled_and_the_answer_is_the_best_held(storage):
    workers = [worker(storage, seed) for seed in range(WORKERS)]
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:  # until some have begun to write
        try:
            if len(held_trials(storage)) > 2:
                break
        except Exception:  # noqa: BLE001  the study is not there yet
            time.sleep(0.1)
    for process in workers[:DYING]:
        process.send_signal(signal.SIGKILL)
    for process in workers[:DYING]:
        process.communicate()
    bests = [float(process.communicate()[0].split()[0]) for process in workers[DYING:]]
    assert all(process.returncode == 0 for process in workers[DYING:])
    trials = held_trials(storage)
    held = [frozenset(trial.params.items()) for trial in trials]
    assert len(held) == len(set(held))
    assert {trial.state for trial in trials} <= {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL}
    maximise = next(iter(directions(1).values())) == "maximize"
    feasible = [t.values[0] for t in trials if t.values and all(value <= 0 for value in t.constraints.values())]
    best_held = max(feasible) if maximise else min(feasible)
    for best in bests:  # what each worker answered is in the study
        assert any(abs(value - best) <= 1e-9 * abs(best) for value in feasible)
    last = worker(storage, 99)
    answer = float(last.communicate()[0].split()[0])
    assert answer >= best_held if maximise else answer <= best_held
