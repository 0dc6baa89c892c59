"""Work elsewhere: in order, and the same when a worker dies in the middle of it."""

import os
import signal
from pathlib import Path

import pytest

from advisor.fleet.workers import _cause, workers_of
from catalog.errors import InputError


def squared(number, folder):
    """Square it; the first to come to 3 dies of it."""
    mark = Path(folder) / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def dying(_):
    os.kill(os.getpid(), signal.SIGKILL)


def squares(workers, folder):
    with workers_of(workers) as calls:
        return list(calls(squared, [(number, str(folder)) for number in range(8)]))


@pytest.mark.slow
@pytest.mark.process
def test_a_process_that_is_killed_costs_no_result(tmp_path):
    assert squares(2, tmp_path) == [number * number for number in range(8)]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
@pytest.mark.process
def test_a_dask_worker_that_is_killed_costs_no_result(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        place = cluster.scheduler_address.removeprefix("tcp://")
        assert squares(f"dask://{place}", tmp_path) == [number * number for number in range(8)]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
@pytest.mark.process
def test_a_ray_worker_that_is_killed_costs_no_result(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        assert squares("ray://auto", tmp_path) == [number * number for number in range(8)]
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()


@pytest.mark.slow
@pytest.mark.process
def test_work_that_kills_whoever_does_it_ends_with_a_line():
    with workers_of(2) as calls, pytest.raises(InputError, match="ended 4 times at the same work"):
        list(calls(dying, [(1,)]))


class CommClosedError(OSError):
    """Named as Dask's."""


def test_what_a_lost_cluster_raises_is_said_in_a_line():
    assert "the cluster was lost (CommClosedError)" in str(_cause(CommClosedError()))
    other = KeyError("x")
    assert _cause(other) is other
