"""Measured runs survive bad files, several writers, a kill at any moment and a full disk."""

import csv
import errno
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.runs import append_runs, keep_runs, read_runs, read_user_runs, shipped_runs, to_frame, user_runs
from catalog.schema import Measurement
from catalog.tables import DATA, field_types

pytestmark = pytest.mark.process

RUN = Measurement(
    run_id="one", role="fit", source="a test", gpu="H100-SXM", gpus=2, engine="vllm", model="llama-13b",
    dtype="float16", tp=2, batch=8, input_len=128, output_len=32, prefill_ms=20.5, e2e_ms=300.0,
)  # fmt: skip


def named(name, count=1):
    return [replace(RUN, run_id=f"{name}-{number}") for number in range(count)]


def write_csv(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


ROW = {
    "run_id": "a", "role": "fit", "source": "s", "gpu": "H100-SXM", "gpus": "1", "engine": "vllm", "model": "m",
    "dtype": "float16", "batch": "1", "input_len": "128", "output_len": "128", "e2e_ms": "100", "compiled": "True",
}  # fmt: skip


def test_shipped_runs_stand_every_check_that_is_not_made_again():
    assert read_runs(*sorted((DATA / "runs").glob("*.csv"))) == shipped_runs()


def test_shipped_runs():
    shipped = shipped_runs()
    assert len(shipped) >= 60
    assert len({run.run_id for run in shipped}) == len(shipped)
    for run in shipped:
        assert run.source
        assert find_gpu(run.gpu).value.name == run.gpu
        assert find_model(run.model).value.name == run.model


def test_a_shipped_run_reads_as_it_stands():
    run = next(run for run in shipped_runs() if run.run_id == "h200-vllm0.24-llama-2-7b-tp1pp1dp1-b32-i128-o128")
    assert (run.gpu, run.batch, run.prefill_ms, run.kv_capacity_tokens, run.dtype) == (
        "H200-SXM",
        32,
        87.7,
        228480,
        "bfloat16",
    )
    assert (run.repeats, run.role, run.compiled) == (None, "fit", True)
    assert run.deployment.max_num_batched_tokens == 16384


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    odd = replace(
        RUN,
        run_id="odd",
        source='quotes " and\nlines, ü',
        fingerprint='{"driver": "570"}',
        oom=True,
        e2e_ms=None,
        prefill_ms=None,
    )
    append_runs(path, [RUN, odd])
    append_runs(path, named("later"))
    append_runs(path, [])
    assert read_runs(path) == (RUN, odd, *named("later"))
    assert path.read_bytes().isascii()


def test_user_runs(home):
    append_runs(home / "runs" / "mine.jsonl", [RUN])
    write_csv(home / "runs" / "theirs.csv", ROW)
    assert [run.run_id for run in user_runs()] == ["one", "a"]


def test_every_field_survives(tmp_path):
    every = {"role": "validate", "compiled": False, "graphs": True, "oom": True, "regime": "steady"}
    for each in fields(Measurement):
        if each.name not in every:
            kinds = str(field_types(Measurement)[each.name])
            every[each.name] = 3 if "int" in kinds else 0.5 if "float" in kinds else "x"
    run = Measurement(**every | {"gpus": 27, "e2e_ms": 9.0, "gpu_memory_utilization": 0.9})
    append_runs(tmp_path / "r.jsonl", [run])
    assert read_runs(tmp_path / "r.jsonl") == (run,)
    row = {name: value for name in every if (value := getattr(run, name)) is not None}
    assert read_runs(write_csv(tmp_path / "r.csv", row)) == (run,)


def test_spreadsheet_habits(tmp_path):
    path = write_csv(tmp_path / "r.csv", ROW | {"gpus": "1.0", "compiled": "FALSE", "tp": "", "repeats": "3.0"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (run,) = read_runs(path)
    assert (run.gpus, run.compiled, run.tp, run.repeats) == (1, False, 1, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"e2e": "3"}, r"line 1: unknown column 'e2e'; closest: e2e_ms"),
        ({"input_len": "0"}, "line 2: input_len is 0; it must be from 1"),
        ({"batch": "-4"}, "line 2: batch is -4"),
        ({"batch": "1.5"}, "line 2: batch is '1.5'; it must be a whole number"),
        ({"batch": "many"}, "line 2: batch is 'many'; it must be a whole number"),
        ({"batch": "1e999"}, "line 2: batch is '1e999'; it must be a whole number"),
        ({"batch": ""}, "line 2: batch is missing"),
        ({"e2e_ms": "nan"}, "line 2: e2e_ms is nan; it must be a finite number"),
        ({"e2e_ms": "inf"}, "e2e_ms is inf"),
        ({"e2e_ms": "-3"}, "e2e_ms is -3"),
        ({"e2e_ms": "0"}, "e2e_ms is 0"),
        ({"tpot_ms": "300"}, "tpot_ms 300 is longer than the whole run"),
        ({"tp": "2"}, "tp x pp x dp is 2, more than its 1 GPUs"),
        ({"role": "training"}, "'fit' or 'validate'"),
        ({"compiled": "maybe"}, "compiled is 'maybe'; it must be true or false"),
        ({"utilisation": "93"}, "utilisation is 93"),
        ({"gpu": "  "}, "gpu is empty"),
    ],
)
def test_bad_csv_rows_are_one_line_with_their_number(tmp_path, change, words):
    path = write_csv(tmp_path / "r.csv", ROW | change)
    with pytest.raises(InputError, match=words) as caught:
        read_runs(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns run_id, role"),
        ("run_id,role\n", "are missing"),
        (",".join(ROW) + ",gpu\n", "twice"),
        (",".join(ROW) + "\na,b\n", "line 2 has 2 cells"),
        (",".join(ROW) + '\n"open\n', "not CSV"),
        (",".join(ROW) + "\n\0\n", "line 2|not CSV"),
    ],
)
def test_bad_csv_files(tmp_path, text, words):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_runs(path)
    assert "\n" not in str(caught.value)


def line(**changes):
    return json.dumps({"run_id": "a", "role": "fit", "source": "s", "gpu": "G", "gpus": 1, "engine": "e", "model": "m",
                       "dtype": "d", "batch": 1, "input_len": 1, "output_len": 1} | changes)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (line() + "\nnot json\n", "line 2 is not JSON"),
        (line() + "\n[1]\n", "line 2 is not a JSON object"),
        (line(batsh=1), "line 1: unknown field 'batsh'; closest: batch"),
        (line(batch=True), "batch is True; it must be a whole number"),
        (line(batch=10**400), "batch is 1000"),
        (line(e2e_ms=10**400), "e2e_ms is 1000"),
        (line(e2e_ms="3"), "e2e_ms is '3'"),
        (line(e2e_ms=float("nan")), "NaN is no number"),
        ("{} }", "not JSON"),
        ('{"a":' * 100_000 + "}", "not JSON"),
    ],
)
def test_bad_stores_are_one_line_with_their_number(tmp_path, text, words):
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_runs(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\xfa")
    for path in (tmp_path, tmp_path / "none.jsonl", tmp_path / "none.csv", tmp_path / "binary.jsonl", "bad\0.jsonl"):
        with pytest.raises(InputError):
            read_runs(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.binary(max_size=60), suffix=st.sampled_from([".csv", ".jsonl"]))
def test_any_file_gives_runs_or_one_line(tmp_path, text, suffix):
    path = tmp_path / f"r{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    logging.disable()
    try:
        assert read_runs(path) == ()
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  it may as well not raise
    finally:
        logging.disable(logging.NOTSET)


def test_a_cut_off_at_any_byte_loses_that_line_only(tmp_path, caplog):
    whole = tmp_path / "whole.jsonl"
    append_runs(whole, [RUN, replace(RUN, run_id="two", fingerprint='{"a": "}"}')])
    data = whole.read_bytes()
    first = data.index(b"\n") + 1
    path = tmp_path / "cut.jsonl"
    for end in range(first + 1, len(data) - 1):
        path.write_bytes(data[:end])
        assert read_runs(path) == (RUN,), data[first:end]
        assert "line 2 is unfinished" in caplog.text
        caplog.clear()
    path.write_bytes(data[:-1])
    assert len(read_runs(path)) == 2, "only the line's end is missing"


def test_writing_after_a_cut_off(tmp_path):
    path = tmp_path / "r.jsonl"
    append_runs(path, named("first", 2))
    path.write_bytes(path.read_bytes()[:-10])
    append_runs(path, named("then"))
    assert [run.run_id for run in read_runs(path)] == ["first-0", "then-0"]


def write_some(path, name, count):
    for number in range(count):
        append_runs(path, [replace(RUN, run_id=f"{name}-{number}", source="x" * 20_000)])


def test_several_writers(tmp_path):
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(path, name, 25)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    written = [run.run_id for run in read_runs(path)]
    assert sorted(written) == sorted(f"{name}-{number}" for name in "abcd" for number in range(25))
    for name in "abcd":
        own = [run_id for run_id in written if run_id.startswith(name)]
        assert own == [f"{name}-{number}" for number in range(25)], "each writer's runs are in its order"


ENDLESS = """
import sys
from dataclasses import replace
from catalog.runs import append_runs, read_runs
path, template = sys.argv[1:]
run = read_runs(template)[0]
for number in range(10**9):
    append_runs(path, [replace(run, run_id=str(number), source="x" * 50_000)])
    print(number, flush=True)
"""


def test_a_kill_at_any_moment(tmp_path):
    template, path = tmp_path / "t.jsonl", tmp_path / "r.jsonl"
    append_runs(template, [RUN])
    for wait in (0.0, 0.013, 0.031):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", ENDLESS, str(path), str(template)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "0\n"
            time.sleep(wait)
            writer.send_signal(signal.SIGKILL)
            confirmed = [0, *(int(number) for number in writer.stdout.read().split())]
        append_runs(path, named("after"))
        read = [run.run_id for run in read_runs(path)]
        assert read[-1] == "after-0"
        assert read[:-1] == [str(number) for number in range(len(read) - 1)]
        assert len(read) - 1 >= len(confirmed), "what was confirmed is there"


def test_a_full_disk_harms_nothing(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    append_runs(path, [RUN])
    before = path.read_bytes()
    real_write = os.write

    def short(descriptor, data):
        return real_write(descriptor, data[:7])

    def full(_descriptor, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for broken in (short, full):
        monkeypatch.setattr(os, "write", broken)
        with pytest.raises(InputError, match=r"No space left.*; nothing was added") as caught:
            append_runs(path, named("lost"))
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
    monkeypatch.undo()
    append_runs(path, named("then"))
    assert [run.run_id for run in read_runs(path)] == ["one", "then-0"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that Linux has")  # noqa: PTH110  not a file
def test_a_device_that_is_full():
    with pytest.raises(InputError, match="No space left"):
        append_runs("/dev/full", [RUN])


def test_files_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r.jsonl", tmp_path / "r.csv"):
        with pytest.raises(InputError):
            append_runs(path, [RUN])


def test_impossible_runs_are_not_written(tmp_path):
    path = tmp_path / "r.jsonl"
    with pytest.raises(InputError, match="batch is -1"):
        append_runs(path, [RUN, replace(RUN, batch=-1)])
    assert not path.exists()


def test_frame():
    frame = to_frame([RUN, replace(RUN, prefill_ms=None)])
    assert list(frame.columns) == [each.name for each in fields(Measurement)]
    assert frame["prefill_ms"].tolist()[0] == 20.5
    assert frame["prefill_ms"].isna().tolist() == [False, True]
    assert len(to_frame([])) == 0


def test_what_may_be_true_false_or_unknown_stays_so(tmp_path):
    changes = ({}, {"compiled": True, "graphs": False}, {"compiled": False, "graphs": True})
    runs = [replace(RUN, run_id=f"r{number}", **change) for number, change in enumerate(changes)]
    assert to_frame(runs)["graphs"].isna().tolist() == [True, False, False]
    assert to_frame(runs)["graphs"].dropna().tolist() == [False, True]
    append_runs(tmp_path / "r.jsonl", runs)
    read = read_runs(tmp_path / "r.jsonl")
    assert [run.graphs for run in read] == [None, False, True]
    assert [run.deployment.has_graphs for run in read] == [RUN.compiled, False, True]


def test_three_writers_of_one_run_add_it_once(tmp_path):
    store, runs = tmp_path / "imported.jsonl", named("same", 40)
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        added = pool.starmap(keep_runs, [(store, runs)] * 9)
    assert read_runs(store) == tuple(runs)
    assert len(store.read_bytes().splitlines()) == len(runs)
    assert sum(map(len, added)) == len(runs)


def test_a_run_in_two_files_counts_once(home):
    append_runs(home / "runs" / "a.jsonl", named("x", 2))
    append_runs(home / "runs" / "b.jsonl", [*named("x", 3), replace(RUN, run_id="x-0", fingerprint="other")])
    assert [run.run_id for run in user_runs()] == ["x-0", "x-1", "x-2"]
    assert len(read_runs(home / "runs" / "a.jsonl", home / "runs" / "b.jsonl")) == 3


def test_two_runs_of_one_name_are_told(home):
    append_runs(home / "runs" / "a.jsonl", [RUN])
    append_runs(home / "runs" / "b.jsonl", [replace(RUN, e2e_ms=400.0)])
    (told,) = read_user_runs().left_out
    assert "e2e_ms 300.0 where this says 400.0; remove one of them" in told
    assert user_runs() == (RUN,)
    with pytest.raises(InputError, match=r"b.jsonl line 1 is another run of the run_id 'one' of .*a.jsonl line 1"):
        read_runs(*sorted((home / "runs").iterdir()))


def test_a_damaged_line_stops_only_who_asks_for_its_file(home):
    path = home / "runs" / "mine.jsonl"
    append_runs(path, named("before"))
    with path.open("a") as file:
        file.write('{"run_id": "bad" "role"}\n{"run_id": "half"}\n7\n')
    append_runs(path, named("after"))
    read = read_user_runs()
    assert [run.run_id for run in read.runs] == ["before-0", "after-0"]
    assert [re.search(r"line \d", told)[0] for told in read.left_out] == ["line 2", "line 3", "line 4"]
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_runs(path)
