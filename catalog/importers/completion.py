"""Readings made complete by what the user knows of them: the GPU, the layout, the model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.importers.consistency import inconsistency
from catalog.importers.errors import UnusableRun
from catalog.models.find import find_model
from catalog.runs import check_run
from catalog.schema import Measurement
from catalog.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.importers.parsed_run import ParsedRun

EXAMPLES = {
    "gpu": "--gpu H100-SXM",
    "tp": "--tp 4",
    "model": "--model llama-13b",
    "engine": "--engine vllm",
    "batch": "--batch 32",
    "load": "--concurrency 32 (requests kept in flight) or --rate 4 (Poisson arrivals a second)",
    "input_len": "--input-len 1024",
    "output_len": "--output-len 256",
}
"""What can be asked for, with an example."""

SURE_SEQUENCES = 256
"""So many sequences every engine runs at once by its own defaults: the smallest ``max_num_seqs`` among them (vLLM's, on GPUs
below 70 GiB). Of more at once only the throughput is kept, for a batch that is the engine's own choice."""

LENGTHS_DIFFER = 0.05
"""By how much a length that was given may differ from the mean that was measured: tokenizers count differently."""

PLAIN = (
    "engine_version",
    "ep",
    "kv_dtype",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "gpu_memory_utilization",
)
"""Facts that are taken as they are, from the file or the user, and need not be known."""

NAMED: dict[str, Any] = {"model": find_model, "engine": find_engine, "gpu": find_gpu}
FIELDS = frozenset(field.name for field in fields(Measurement))


class Incomplete(Exception):  # noqa: N818  what is asked for, no fault
    """Facts that neither the file nor the user states: keys of ``EXAMPLES``."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(", ".join(names))
        self.names = names


def complete(reading: ParsedRun, given: Mapping[str, Any]) -> Measurement:
    """Return the measurement that a reading is, with what the user gives: fields of ``Measurement``, and ``concurrency``.

    Raises:
        Incomplete: facts are missing.
        InputError: the user and the file, or two facts of the user's, contradict each other.
        Unusable: it is no measurement that the catalog can hold.

    """
    given = {name: value for name, value in given.items() if value is not None}
    if "run_id" in reading.stated:
        return _own(reading, given)
    facts = _Facts(reading, given)
    facts.name()
    facts.lay_out()
    facts.load()
    facts.measure_lengths()
    for name in PLAIN:
        facts.take(name)
    if facts.missing:
        raise Incomplete(tuple(facts.missing))
    run = Measurement(
        **facts.measurement(),
        run_id=run_id(reading),
        role=given.get("role", "fit"),
        source=reading.tool,
        fingerprint=json.dumps({"imported": reading.tool, **reading.seen}, separators=(",", ":")),
    )
    try:
        check_run(run, reading.where)
    except InputError as error:
        raise UnusableRun(str(error).removeprefix(f"{reading.where}: ")) from error
    return _consistent(run, reading)


def _consistent(run: Measurement, reading: ParsedRun) -> Measurement:
    """Return the run; raises ``UnusableRun`` where what it says cannot be true at once."""
    if why := inconsistency(run, reading.requests):
        raise UnusableRun(why)
    return run


def run_id(reading: ParsedRun) -> str:
    """Return an id that is the same for the same run, in whichever of its tool's formats it comes and whatever is said about it."""
    digest = hashlib.sha256(repr((reading.tool, *reading.identity)).encode()).hexdigest()
    return f"{reading.tool.replace(' ', '-')}/{digest[:16]}"


class _Facts:
    """The fields of one measurement, gathered from the file and the user."""

    def __init__(self, reading: ParsedRun, given: Mapping[str, Any]) -> None:
        self.where = reading.where
        self.stated = {name: value for name, value in reading.stated.items() if value is not None}
        self.traffic = reading.traffic
        self.given = given
        self.fields: dict[str, Any] = {}
        self.missing: list[str] = []

    def take(self, name: str, *, needed: bool = False) -> Any:
        """Take the one value that file and user agree on; None where neither knows any."""
        mine, given = self.stated.get(name), self.given.get(name)
        if mine is not None and given is not None and mine != given:
            raise self.contradiction(name, given, mine)
        value = given if mine is None else mine
        if value is not None:
            self.fields[name] = value
        elif needed:
            self.missing.append(name)
        return value

    def contradiction(self, name: str, given: Any, mine: Any) -> InputError:
        option = name.replace("_", "-")
        return InputError(
            f"--{option} is {given}, but {self.where} says {_short(mine)}; leave it out, or import that file alone"
        )

    def name(self) -> None:
        """Read model, engine and GPU by the catalog's names."""
        for kind in NAMED:
            stated, given = self.stated.get(kind), self.given.get(kind)
            if stated is None and given is None:
                self.missing.append(kind)
            elif given is None:
                try:
                    self.fields[kind] = _catalog_name(kind, stated)
                except InputError as error:
                    raise InputError(f"{self.where}: {error}; or say it, such as {EXAMPLES[kind]}") from error
            else:
                self.fields[kind] = _catalog_name(kind, given)
                # a server may call its model anything: only what means a model in the catalog can contradict
                meant = _meant(kind, str(stated)) if stated is not None else None
                another = (
                    kind == "model" and meant is None and _is_form_of_another(str(stated or ""), self.fields[kind])
                )
                if another or (meant is not None and meant != self.fields[kind]):
                    raise self.contradiction(kind, given, stated)

    def lay_out(self) -> None:
        """Settle how many GPUs there were, and how they were used."""
        gpus, tp, pp, dp = (self.take(name) for name in ("gpus", "tp", "pp", "dp"))
        if tp is None and gpus != 1:
            self.missing.append("tp")
            return
        tp, pp, dp = tp or 1, pp or 1, dp or 1
        used = tp * pp * dp
        if gpus is not None and used != gpus:
            raise InputError(
                f"{self.where}: tp x pp x dp is {tp} x {pp} x {dp} = {used}, but it ran on {gpus} GPUs; "
                "give those of --gpus, --tp, --pp and --dp (replicas) that the file does not say"
            )
        self.fields |= {"gpus": used, "tp": tp, "pp": pp, "dp": dp}

    def load(self) -> None:
        """Settle how requests came, and what was measured."""
        rate, concurrency = self.given.get("rate"), self.given.get("concurrency")
        traffic = self.traffic
        if traffic is not None and not traffic.load_known:
            if rate is None and concurrency is None:
                self.missing.append("load")
                return
            traffic = replace(traffic, rate=rate, concurrency=concurrency, load_known=True)
        if traffic is None:
            self.fields |= {name: value for name, value in self.stated.items() if name in FIELDS - NAMED.keys()}
            requests = self.stated.get("concurrency")
        else:
            measured = traffic.stated()
            requests = measured["concurrency"]
            self.fields |= {name: value for name, value in measured.items() if name in FIELDS and value is not None}
        stated_rate = self.fields.get("rate")
        if rate is not None and rate != stated_rate:
            raise self.contradiction("rate", rate, "none" if stated_rate is None else stated_rate)
        if concurrency is not None and concurrency != requests:
            raise self.contradiction("concurrency", concurrency, _short(requests or self.fields.get("batch", "none")))
        if requests is not None:
            self.stated["batch"] = max(1, round(requests / self.fields.get("dp", 1)))
        self.take("batch", needed=True)

    def measure_lengths(self) -> None:
        """Settle the mean lengths of prompts and outputs; where only their sum was measured, the user gives one of
        them.
        """
        for name in ("input_len", "output_len"):
            mine, given = self.fields.get(name), self.given.get(name)
            if mine is not None and given is not None and abs(mine - given) > LENGTHS_DIFFER * mine:
                raise self.contradiction(name, given, mine)
            if mine is None and given is not None:
                self.fields[name] = given
        known = [name for name in ("input_len", "output_len") if name in self.fields]
        total = self.stated.get("total_len")
        if total is not None and len(known) == 1:
            other = "output_len" if known == ["input_len"] else "input_len"
            self.fields[other] = round(total - self.fields[known[0]])
            if self.fields[other] < 1:
                raise self.contradiction(
                    known[0], self.fields[known[0]], f"{total:g} tokens a request, prompt and output together"
                )
        elif (
            total is not None
            and known
            and abs(sum(self.fields[name] for name in known) - total) > LENGTHS_DIFFER * total
        ):
            raise self.contradiction(
                "output_len", self.fields["output_len"], f"{total:g} tokens a request, with the prompt"
            )
        elif self.traffic is None or self.traffic.load_known or known:
            absent = [name for name in ("input_len", "output_len") if name not in self.fields]
            self.missing += absent[-1:] if total is not None else absent

    def measurement(self) -> dict[str, Any]:
        """Return the fields, complete."""
        values = dict(self.fields)
        values["dtype"] = self._dtype(find_model(values["model"]).value)
        e2e = values.get("e2e_ms")
        if values["regime"] != "static" or e2e is None:
            return values
        values.setdefault("output_tok_s", 1e3 * values["batch"] * values["dp"] * values["output_len"] / e2e)
        if values["batch"] > values.get("max_num_seqs", SURE_SEQUENCES):
            for name in ("e2e_ms", "ttft_ms", "spread", "repeats"):
                values.pop(name, None)
            return values | {"batch": 0}
        return values | ({"prefill_ms": e2e} if values["output_len"] == 1 else {})

    def _dtype(self, model: Any) -> str:
        """Return the format of the weights: as said, as the checkpoint's, or what it computes in."""
        stated, given = self.stated.get("dtype"), self.given.get("dtype")
        if stated is not None and given is not None and stated != given:
            raise self.contradiction("dtype", given, stated)
        return str(given or stated or model.quantization or self.stated.get("compute_dtype") or model.dtype)


def _own(reading: ParsedRun, given: Mapping[str, Any]) -> Measurement:
    """Return a run that says everything itself: what is given may only agree."""
    run = Measurement(**{"role": given.get("role", "fit"), **reading.stated})
    facts = _Facts(reading, given)
    for name, value in given.items():
        if name not in FIELDS:
            continue
        mine = getattr(run, name)
        agrees = _meant(name, str(mine)) == _catalog_name(name, value) if name in NAMED else mine == value
        if not agrees:
            raise facts.contradiction(name, value, mine)
    return _consistent(run, reading)


def _catalog_name(kind: str, name: Any) -> str:
    resolved = NAMED[kind](name)
    return str(getattr(resolved, "value", resolved).name)


def _meant(kind: str, name: str) -> str | None:
    """Return the catalog's name of what a name means, without a look at the hub; None where it means nothing."""
    if kind == "model":
        meaning = table("models").meaning(name)
        return None if meaning is None else meaning.name
    try:
        return _catalog_name(kind, name)
    except InputError:
        return None


def _is_form_of_another(stated: str, model: str) -> bool:
    """Return whether a name that the catalog lacks is that of one of its other models in another format or tuning.

    "zai-org/GLM-5-FP8" is GLM-5's, by its longest beginning that means a model; a name of one's own means none.
    """
    names = table("models")
    parts = stated.rpartition("/")[2].split("-")
    for count in range(len(parts) - 1, 1, -1):
        meaning = names.meaning("-".join(parts[:count]))
        if meaning is not None:
            wanted = names.meaning(model)
            return wanted is not None and wanted.entry != meaning.entry
    return False


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"[:100]
