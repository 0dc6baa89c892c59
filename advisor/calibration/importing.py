"""Benchmarks that were measured with other programs, taken over as runs: read, completed, and kept each once."""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.calibration.observations import impossible
from catalog.errors import InputError
from catalog.importers.benchmark_file import read_document
from catalog.importers.completion import EXAMPLES, Incomplete, complete, run_id
from catalog.importers.errors import SkippedFile, UnusableRun
from catalog.importers.registry import find_format, read_benchmarks, recognised
from catalog.paths import home
from catalog.requests import keep_requests
from catalog.runs import difference, keep_runs, read_runs, shipped_runs, user_runs
from catalog.schema import BITS, Measurement, require_positive
from catalog.tables import table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from catalog.importers.parsed_run import ParsedRun
    from catalog.requests import Request

STORE = "imported.jsonl"
"""The store in $ADVISOR_HOME/runs, where every later answer looks."""

SUFFIXES = (".json", ".jsonl", ".csv", ".log", ".txt")
"""What is looked at in a folder."""

MOST_FILES = 10_000

SAID = {
    "gpu": "the GPU",
    "tp": "the tensor parallel size",
    "model": "the model",
    "engine": "the engine",
    "batch": "the batch",
    "load": "how requests came",
    "input_len": "the prompts' length",
    "output_len": "the outputs' length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What some files hold, and where it goes."""

    runs: tuple[Measurement, ...]
    """Those that can be used, each once, in the order of the files."""
    requests: Mapping[str, tuple[Request, ...]]
    """By ``run_id``, where a file has them."""
    left_out: tuple[SkippedFile, ...]
    """Those that cannot, and why."""
    store: Path
    known: frozenset[str]
    """``run_id`` of those among ``runs`` that are kept already."""

    @property
    def new(self) -> tuple[Measurement, ...]:
        return tuple(run for run in self.runs if run.run_id not in self.known)

    @property
    def requests_store(self) -> Path:
        """Return the file of requests: beside the runs; but every file in $ADVISOR_HOME/runs holds runs."""
        folder = home() if _is_home(self.store) else self.store.parent
        return folder / "requests.jsonl"

    @property
    def why_empty(self) -> str:
        """Return why there is nothing to keep, in one line."""
        first = f": {self.left_out[0]}" if self.left_out else ""
        rest = f"; and {len(self.left_out) - 1} more" if len(self.left_out) > 1 else ""
        return f"nothing can be used{first}{rest}"

    def keep(self) -> None:
        """Add the new runs to the store, and their requests beside it.

        Raises:
            InputError: a file cannot be written.

        """
        requests = [
            replace(request, run_id=run.run_id) for run in self.new for request in self.requests.get(run.run_id, ())
        ]
        if requests:
            keep_requests(self.requests_store, requests)
        keep_runs(self.store, self.new)


def import_runs(
    path: str | Path | Sequence[str | Path],
    format: str = "auto",  # noqa: A002  the contract's word
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int | None = None,
    model: str | None = None,
    engine: str | None = None,
    engine_version: str | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    max_model_len: int | None = None,
    gpu_memory_utilization: float | None = None,
    batch: int | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    input_len: int | None = None,
    output_len: int | None = None,
    role: str | None = None,
    store: str | Path | None = None,
) -> list[Measurement]:
    """Return the runs that benchmark files hold; nothing is kept unless there is a ``store``.

    Args:
        path: a file or a folder, or several: results of vLLM's benchmarks, SGLang's, GuideLLM, AIPerf, GenAI-Perf,
            inference-perf, LLMPerf and trtllm-bench, runs of our own, or published benchmarks in long form.
        format: "auto" (by what is in it), or the name of one of ``catalog.importers.registry.FORMATS``.
        gpu: what the file does not say of the GPU, here and below: its name.
        gpus: number of GPUs.
        tp: tensor parallel size.
        pp: pipeline parallel size; 1 if neither says more.
        dp: replicas; 1 if neither says more.
        ep: GPUs that experts are spread over.
        model: a catalog name, a Hugging Face id or a ``config.json``.
        engine: the engine that served.
        engine_version: its version.
        dtype: weight format; by default the checkpoint's.
        kv_dtype: KV cache format.
        max_num_seqs: most sequences at once per replica.
        max_num_batched_tokens: token budget of a step.
        max_model_len: longest sequence.
        gpu_memory_utilization: the engine's share of a GPU's memory.
        batch: sequences at once per replica, for ``vllm bench latency``.
        concurrency: requests kept in flight, for CSV exports that do not say it.
        rate: Poisson arrivals a second, likewise.
        input_len: tokens of a prompt.
        output_len: tokens of an output.
        role: "fit", or "validate": kept out of the fit, to judge it.
        store: a JSON Lines file to add what it does not hold yet to; requests go to ``requests.jsonl`` beside it.

    Rows that cannot be used are logged as warnings.

    Raises:
        InputError: nothing can be used, or a fact is missing, or two contradict each other.

    """
    given = {name: value for name, value in locals().items() if name not in {"path", "format", "store"}}
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    imported = read_import(paths, format, given=given, store=store)
    for line in imported.left_out:
        logging.getLogger(__name__).warning("left out: %s", line)
    if not imported.runs:
        raise InputError(imported.why_empty)
    if store is not None:
        imported.keep()
    return list(imported.runs)


def read_import(
    paths: Iterable[str | Path],
    chosen: str = "auto",
    *,
    given: Mapping[str, Any] | None = None,
    store: str | Path | None = None,
    catalogued: bool = False,
) -> Import:
    """Return what files and folders hold, without keeping it. ``given`` has the facts by their names in ``import_runs``.

    ``catalogued``: the files come from elsewhere, so a model that they name is looked for in the catalog only, not on this
    machine or the hub; runs of others are left out.

    Raises:
        InputError: a file cannot be read, a fact is missing, or two contradict each other.

    """
    if chosen.strip().casefold() != "auto":
        find_format(chosen)
    facts = _checked(given or {})
    where = home() / "runs" / STORE if store is None else Path(store).expanduser()
    if where.suffix.casefold() == ".csv":
        raise InputError(f"{where} is a CSV file; runs are kept in a store such as {where.with_suffix('.jsonl')}")
    kept = {run.run_id: run for run in _kept(where)}
    runs: dict[str, Measurement] = {}
    requests: dict[str, tuple[Request, ...]] = {}
    places: dict[str, str] = {}
    left_out: list[SkippedFile] = []
    incomplete: list[tuple[ParsedRun, Incomplete]] = []
    for reading in _readings(paths, chosen, left_out):
        if catalogued and _is_foreign(reading, facts):
            text = f"model {reading.stated['model']!r:.60} is not in the catalog; say which model of the catalog it is"
            left_out.append(SkippedFile(reading.where, text))
            continue
        try:
            run = complete(reading, facts)
        except Incomplete as error:
            incomplete.append((reading, error))
            continue
        except UnusableRun as error:
            left_out.append(SkippedFile(reading.where, str(error)))
            continue
        known = kept.get(run.run_id)
        if known is not None and (differing := difference(known, run)):
            left_out.append(
                SkippedFile(reading.where, f"it is kept already, with {differing}; remove its line of {where} first")
            )
            continue
        if run.run_id in runs:
            run = max(runs[run.run_id], run, key=_fullness)  # the same whichever comes first
        runs[run.run_id] = run
        places[run.run_id] = reading.where
        if reading.requests:
            requests[run.run_id] = reading.requests
    # a program's CSV says less than its JSON of the same run: who imports both is not asked
    unread = [(reading, error) for reading, error in incomplete if run_id(reading) not in runs]
    if unread:
        raise InputError(_asked({name for _, error in unread for name in error.names}, unread[0][0].where))
    for name, why in impossible(runs.values()).items():
        left_out.append(
            SkippedFile(places[name], f"{why}: its lengths, batch or GPUs are others, or something was cached")
        )
        del runs[name]
        requests.pop(name, None)
    return Import(
        runs=tuple(runs.values()),
        requests=requests,
        left_out=tuple(left_out),
        store=where,
        known=frozenset(runs.keys() & kept.keys()),
    )


def _is_foreign(reading: ParsedRun, facts: Mapping[str, Any]) -> bool:
    """Return whether a run's model is none of the catalog's, by the name in its file where the facts don't say another."""
    stated_model = None if "model" in facts and "run_id" not in reading.stated else reading.stated.get("model")
    return stated_model is not None and table("models").meaning(str(stated_model)) is None


def _readings(paths: Iterable[str | Path], chosen: str, left_out: list[SkippedFile]) -> Iterator[ParsedRun]:
    """Yield every run of the files; what a folder holds besides is left out."""
    for path in paths:
        named = Path(path).expanduser()
        whole = _is_folder(named)
        for file in _files(named) if whole else [named]:
            name = str(file.relative_to(named)) if whole else file.name
            try:
                document = read_document(file, name)
                if whole and recognised(document) is None:
                    left_out.append(SkippedFile(name, "it is no benchmark that is known"))
                    continue
                rows = read_benchmarks(document, chosen)
            except InputError as error:
                if not whole:
                    raise
                left_out.append(SkippedFile(name, str(error).removeprefix(name).lstrip(": ")))
                continue
            for row in rows:
                if isinstance(row, SkippedFile):
                    left_out.append(row)
                else:
                    yield row


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.casefold() in SUFFIXES and path.is_file())
    if not files:
        raise InputError(f"{folder} holds no {', '.join(SUFFIXES)} file")
    if len(files) > MOST_FILES:
        raise InputError(
            f"{folder} holds {len(files)} files; at most {MOST_FILES} are read at once, name a smaller folder"
        )
    return files


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have: reading it says so
        return False


def _is_home(store: Path) -> bool:
    return store.parent.resolve() == (home() / "runs").resolve()


def _kept(store: Path) -> tuple[Measurement, ...]:
    """Return what the store holds, and for a store that every answer reads, what the others hold."""
    own = read_runs(store) if store.exists() else ()
    return (*shipped_runs(), *user_runs(), *own) if _is_home(store) else own


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that are given.

    Raises:
        InputError: one cannot be.

    """
    facts = {name: value for name, value in given.items() if value is not None}
    for name in (
        "gpus",
        "tp",
        "pp",
        "dp",
        "ep",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_model_len",
        "batch",
        "concurrency",
        "input_len",
        "output_len",
    ):
        if name in facts:
            require_positive(_option(name), facts[name], most=10**9)
    if "rate" in facts:
        require_positive("--rate", facts["rate"], whole=False)
    if "gpu_memory_utilization" in facts:
        require_positive(_option("gpu_memory_utilization"), facts["gpu_memory_utilization"], most=1, whole=False)
    if "rate" in facts and "concurrency" in facts:
        raise InputError(
            "--rate and --concurrency are both given; a run has either Poisson arrivals or requests in flight"
        )
    if facts.get("role", "fit") not in ("fit", "validate"):
        raise InputError(f"--role is {facts['role']!r:.40}; it must be fit or validate")
    for name, known in (("dtype", tuple(BITS)), ("kv_dtype", ("auto", *BITS))):
        if facts.get(name, known[0]) not in known:
            from catalog.names import suggestion  # only for this message

            near = suggestion(facts[name], known, otherwise=f"formats: {', '.join(known)}")
            raise InputError(f"{_option(name)} is {facts[name]!r:.40}; {near}")
    return facts


def _asked(missing: Collection[str], first: str) -> str:
    """Return what is missing and how to give it, in one line."""
    names = [name for name in EXAMPLES if name in missing]
    said = [SAID[name] for name in names]
    wanted = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"{first} does not say {wanted}; add for example {' '.join(EXAMPLES[name] for name in names)}"


def _fullness(run: Measurement) -> tuple[int, int, str]:
    """Return how much a run tells; two accounts that tell as much differ in their texts."""
    return sum(value not in (None, "") for value in astuple(run)), len(run.fingerprint), repr(run)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
