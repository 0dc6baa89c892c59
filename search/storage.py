"""Where studies are kept: opening an Optuna storage by name, with errors a user can act on and no password in them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from catalog.errors import InputError
from catalog.redaction import redacted, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL_SUFFIXES = (".journal", ".log")
JOURNAL_START = b'{"op_code":'
MENDED_AT_ONCE = 2**20
"""Bytes looked through at once for the end of the last whole record."""
WHAT_IS_RIGHT = "give sqlite:///FILE, postgresql://USER@HOST/DB, mysql://USER@HOST/DB or a FILE.journal"
PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""What to install for a database module, where the names differ."""
WRITERS_QUEUE = {"timeout": 60}
"""Seconds: SQLite locks the whole file for a write."""
ANSWERS_SOON = {"connect_timeout": 10}
"""Seconds: a server answers soon or not at all."""
CONNECT_ARGS = {
    "sqlite": WRITERS_QUEUE,
    "sqlite+pysqlite": WRITERS_QUEUE,
    "postgresql": ANSWERS_SOON,
    "postgresql+psycopg": ANSWERS_SOON,
    "postgresql+psycopg2": ANSWERS_SOON,
    "mysql": ANSWERS_SOON,
    "mysql+mysqldb": ANSWERS_SOON,
    "mysql+pymysql": ANSWERS_SOON,
}
"""What to connect with, for the drivers that know the words."""
STORAGE_ERRORS = (OptunaError, OSError, ImportError, LookupError, ValueError, RuntimeError, AssertionError)
"""What Optuna's storages raise, beside SQLAlchemy's errors: asserts and look-ups on content they did not expect."""
LOCKS = {
    "postgresql": ("SELECT pg_advisory_lock(hashtext(:key))", "SELECT pg_advisory_unlock(hashtext(:key))"),
    "mysql": ("SELECT GET_LOCK(:key, -1)", "SELECT RELEASE_LOCK(:key)"),
}
"""How a session takes and gives a lock of its own, by SQLAlchemy's dialect."""
OPENINGS = 20
"""Attempts to open a database while others create its tables."""


def open_storage(storage: str | os.PathLike[str] | None) -> BaseStorage:
    """Open the storage that ``storage`` names: None for memory, a database URL, or a path ending in .journal or .log.

    Files and tables that are missing are created.

    Raises:
        InputError: it names no kind of storage, or that one cannot be used.
    """
    if storage is None:
        return InMemoryStorage()
    text = os.fspath(storage)
    with readable_errors(text):
        if "://" not in text:
            return _journal(text)
        return _database(text)


def _database(url: str) -> RDBStorage:
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError  # a slow import

    arguments = CONNECT_ARGS.get(url.partition("://")[0], {})
    for _ in range(OPENINGS):
        try:
            return RDBStorage(url, engine_kwargs={"connect_args": dict(arguments)})
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # Optuna looks for its tables and then creates them; someone else may have done so in between.
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(random.uniform(0.05, 0.5))  # noqa: S311  spreads the openers, guards nothing
    return RDBStorage(url, engine_kwargs={"connect_args": dict(arguments)})


def _journal(path: str) -> JournalStorage:
    if Path(path).suffix not in JOURNAL_SUFFIXES:
        raise InputError(
            f"storage {redacted(path)!r} is neither a URL nor a journal; for a database file give "
            f"sqlite:///{redacted(path) or 'FILE'}, for a journal a path ending in .journal"
        )
    lock = JournalFileOpenLock(path)
    if Path(path).exists():
        lock.acquire()
        try:
            _check_journal(path)
            _mend_journal(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(path, lock_obj=lock))


def _check_journal(path: str) -> None:
    """Refuse a file that Optuna would append to although it cannot read it."""
    with Path(path).open("rb") as file:
        start = file.read(len(JOURNAL_START))
    if start not in (b"", JOURNAL_START):
        raise InputError(f"storage {path!r} holds something other than an Optuna journal; name another file")


def _mend_journal(path: str) -> None:
    """Cut off a record that a killed writer or a full disk left unfinished; whoever calls holds the journal's lock.

    Optuna would append to it, and could then read neither.
    """
    with Path(path).open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(end - MENDED_AT_ONCE, 0)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


@contextlib.contextmanager
def only_writer(storage: BaseStorage, where: str, study_name: str) -> Iterator[None]:
    """Let nobody else who asks for this add trials to a study of this storage meanwhile; a writer that dies gives way at once.

    A server keeps the lock with the connection, a file's is on its folder.
    """
    if isinstance(storage, RDBStorage) and storage.engine.dialect.name in LOCKS:
        from sqlalchemy import text  # slow to import, and only servers need it

        lock, release = LOCKS[storage.engine.dialect.name]
        key = {"key": f"advisor {study_name}"[:60]}
        with storage.engine.connect() as connection:
            connection.execute(text(lock), key)
            try:
                yield
            finally:
                connection.execute(text(release), key)
        return
    path = storage.engine.url.database if isinstance(storage, RDBStorage) else where
    if isinstance(storage, InMemoryStorage) or not path or path == ":memory:":
        yield
        return
    import fcntl  # POSIX only

    folder = os.open(Path(path).resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def readable_errors(storage: str) -> Iterator[None]:
    """Turn what Optuna, SQLAlchemy and the system raise about ``storage`` into an ``InputError`` of one clean line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        from sqlalchemy.exc import SQLAlchemyError  # a slow import, needed only when something failed

        if not isinstance(error, (SQLAlchemyError, *STORAGE_ERRORS)):
            raise
        problem = without_secrets(_explained(error), storage)
        # Not "from error": its text may hold the password.
        raise InputError(f"storage {redacted(storage)!r}: {problem}") from None


def _explained(error: BaseException) -> str:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        if type(link).__name__ == "NoSuchModuleError":
            return f"no such kind of database; {WHAT_IS_RIGHT}"
        if isinstance(link, ModuleNotFoundError) and link.name:
            return f"Python module {link.name!r} is missing; install {PACKAGES.get(link.name, link.name)}"
    root = chain[-1]
    if isinstance(root, (LookupError, AssertionError, json.JSONDecodeError)):
        return "it holds something other than what Optuna writes; name another"
    root = getattr(root, "orig", None) or root
    reason = root.strerror if isinstance(root, OSError) and root.strerror else str(root)
    first = next((line.strip() for line in reason.splitlines() if line.strip()), type(root).__name__)
    return f"it cannot be used ({first}); {WHAT_IS_RIGHT}"
