from __future__ import annotations

import json
import sqlite3
import traceback

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage

from catalog.errors import InputError
from catalog.redaction import redacted
from search.storage import open_storage, readable_errors
from search.study import explore
from tests.search.serving import Serving, deployments, directions

SECRET = "hunter2"


def refusal(storage):
    """The line that refuses ``storage``; checked to be one and to give nothing away."""
    with pytest.raises(InputError) as caught:
        explore(deployments(1, batches=4), Serving(1), directions=directions(1), storage=storage)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return line


def test_each_name_opens_its_kind(tmp_path):
    assert isinstance(open_storage(None), InMemoryStorage)
    assert isinstance(open_storage(f"sqlite:///{tmp_path}/x.db"), RDBStorage)
    assert isinstance(open_storage(tmp_path / "x.journal"), JournalStorage)
    assert isinstance(open_storage(str(tmp_path / "x.log")), JournalStorage)


@pytest.mark.parametrize("name", ["", "x", "studies.db", "/tmp/studies.sqlite"])
def test_a_name_of_no_kind_is_told_what_would_be_right(name):
    assert f"sqlite:///{name or 'FILE'}" in refusal(name)
    assert ".journal" in refusal(name)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"postgresql+pg8000://me:{SECRET}@host/db", "Python module 'pg8000' is missing; install pg8000"),
        (f"other://me:{SECRET}@host/db", "no such kind of database; give sqlite:///FILE"),
        (f"redis://:{SECRET}@host", "no such kind of database"),
        (f"postgresql://me:{SECRET}@host:port/db", "cannot be used"),
        (f"postgresql://me:{SECRET}@[::1/db", "cannot be used"),
        (f"sqlite://me:{SECRET}@host/db?password={SECRET}", "Invalid SQLite URL: sqlite://me:***@host/db?password=***"),
        (f"postgresql:/me:{SECRET}@host/db", "neither a URL nor a journal"),
        ("://", "cannot be used"),
    ],
)
def test_urls_that_cannot_work_are_refused_without_their_password(url, reason):
    assert reason in refusal(url)


def test_missing_places_are_refused(tmp_path):
    assert "unable to open database file" in refusal(f"sqlite:///{tmp_path}/none/x.db")
    assert "No such file or directory" in refusal(tmp_path / "none" / "x.journal")
    (tmp_path / "folder.journal").mkdir()
    assert "Is a directory" in refusal(tmp_path / "folder.journal")


def test_a_database_that_may_only_be_read_is_refused(tmp_path):
    explore(deployments(1, batches=4), Serving(1), directions=directions(1), storage=f"sqlite:///{tmp_path}/x.db")
    assert "readonly database" in refusal(f"sqlite:///file:{tmp_path}/x.db?mode=ro&uri=true")


def test_files_of_something_else_are_refused_and_left_alone(tmp_path):
    text = tmp_path / "server.log"
    text.write_text("GET /\nGET /favicon.ico\n")
    assert "something other than an Optuna journal" in refusal(text)
    assert text.read_text() == "GET /\nGET /favicon.ico\n"
    (tmp_path / "x.db").write_text("no database " * 100)
    assert "file is not a database" in refusal(f"sqlite:///{tmp_path}/x.db")
    (tmp_path / "strange.journal").write_text(json.dumps({"op_code": 0}, separators=(",", ":")) + "\n")
    assert "something other than what Optuna writes" in refusal(tmp_path / "strange.journal")
    with sqlite3.connect(tmp_path / "y.db") as connection:
        connection.execute("create table studies (name text)")
    connection.close()
    assert "studies" in refusal(f"sqlite:///{tmp_path}/y.db")


def test_a_journal_whose_writer_was_killed_mends_itself(tmp_path):
    path = tmp_path / "x.journal"
    options = {"directions": directions(1), "storage": path, "study_name": "answer"}
    rows = len(explore(deployments(1, batches=4), Serving(1), **options).study.trials)
    whole = path.read_bytes()
    for cut in (whole + whole.splitlines()[-1][:40], whole[:-1]):
        path.write_bytes(cut)
        assert len(explore(deployments(1, batches=4), Serving(1), **options).study.trials) == rows
        assert path.read_bytes().startswith(whole[: cut.rfind(b"\n") + 1])
    path.write_bytes(whole[:15])  # its very first record
    assert len(explore(deployments(1, batches=4), Serving(1), **options).study.trials) == rows
    assert not list(tmp_path.glob("*.lock"))


def test_an_empty_journal_is_a_new_one(tmp_path):
    (tmp_path / "x.journal").touch()
    assert optuna.get_all_study_names(open_storage(tmp_path / "x.journal")) == []


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError, optuna.exceptions.StorageInternalError])
def test_passwords_are_kept_out_of_what_libraries_say(error):
    url = "mysql://me:p%40ss%2Fw@host/db?ssl_key=k3y"
    with pytest.raises(InputError) as caught, readable_errors(url):
        raise error(f"cannot connect to {url} with p@ss/w or p%40ss%2Fw and k3y\nHint: look up p@ss/w")
    assert str(caught.value).startswith(
        "storage 'mysql://me:***@host/db?ssl_key=***': it cannot be used (cannot connect"
    )
    for secret in ("p@ss/w", "p%40ss%2Fw", "k3y", "\n"):
        assert secret not in "".join(traceback.format_exception_only(caught.value)).rstrip()


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "sqlite", "other", "http"])
@pytest.mark.parametrize("rest", ["@host/db", "@host:port/db", "@/db", "@[::1/db", "", "/db", "@host/db?sslmode=x"])
@pytest.mark.parametrize(
    "password", ["hunt/er2", "hunt#er2", "hunt?er2", "hunt:er2", "hunt@er2", "hunt%er2", "hunt[er2", "hunt er2"]
)
def test_no_piece_of_a_password_is_told(scheme, password, rest):
    if "@" in password and "@" not in rest:
        pytest.skip("what is after the last @ is the host")
    told = refusal(f"{scheme}://me:{password}{rest}")
    assert "hunt" not in told
    assert "er2" not in told


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=8, max_size=20))
def test_any_password_is_redacted(password):
    shown = redacted(f"postgresql://me:{password}@host/db")
    assert password not in shown.removeprefix("postgresql://me:***@")
    assert shown.startswith("postgresql://me:***@")


@pytest.mark.parametrize(
    "harmless",
    [
        "sqlite:///studies.db",
        "sqlite:////tmp/a.db?mode=ro",
        "postgresql://me@host:5432/db",
        "x.journal",
        "C:\\a.journal",
        "postgresql://host:5432/db",
        "redis://[::1]:6379/0",
    ],
)
def test_what_has_no_password_is_shown_as_it_is(harmless):
    assert redacted(harmless) == harmless


def test_errors_of_the_objective_are_not_taken_for_the_storages():
    def broken(_):
        raise ValueError("division by zero in the model")

    with pytest.raises(ValueError, match="in the model") as caught:
        explore(deployments(1, batches=4), broken, directions=directions(1))
    assert not isinstance(caught.value, InputError)
