"""Closed loops that benchmark clients published, as measurements: one row a configuration and number of requests in flight.

Columns are those of the tables that InferenceX and AIConfigurator publish, in one spelling: ``isl`` and ``osl`` are the longest
lengths, drawn evenly from ``length_ratio`` times them; ``ttft_ms`` is the client's mean over a burst and the loop behind it, which is
no time of the steady state and counts within the life of a request only. Rows with ``regime`` "static" are whole batches. Those
marked ``suspect``, ``speculative`` or ``use`` 0 are left out.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.published import MODELS, Published
from catalog.runs import check_run
from catalog.schema import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REQUIRED = frozenset(
    (
        *("source", "id", "gpu", "engine", "engine_version", "model", "weights", "tp", "concurrency"),
        *("isl", "osl", "length_ratio", "ttft_ms", "tpot_ms"),
    )
)
RELEASED = {"vllm": (("2025-10-02", "0.11"), ("2025-12-03", "0.12"), ("2026-04-03", "0.19"))}
"""Releases by the day of their upload to PyPI, as far as dated rows without a version need them: the latest one then is taken."""
REGIMES = {"in flight": "steady", "": "steady", "static": "static"}
NO = frozenset(("", "0", "no", "false", "False"))


def read_loops(rows: Iterable[tuple[str, Mapping[str, str]]]) -> Published:
    """Return the measurements that rows say, each with where it stands; empty cells may be absent."""
    runs: dict[str, Measurement] = {}
    left_out: Counter[str] = Counter()
    for where, row in rows:
        reason = unusable(row)
        if not reason:
            try:
                run = check_run(loop_measurement(row), where)
            except (InputError, ValueError, KeyError) as error:
                reason = f"{where}: {str(error).removeprefix(f'{where}: ')}"
            else:
                runs.setdefault(run.run_id, run)
        if reason:
            left_out[reason] += 1
    return Published(tuple(runs.values()), dict(left_out))


def unusable(row: Mapping[str, str]) -> str:
    """Return why a row is not used; empty if it is."""
    if row.get("use", "1") == "0":
        return "its source says not to use it"
    for column in ("suspect", "speculative"):
        if row.get(column, "") not in NO:
            return f"{column} by its source"
    return "" if row.get("regime", "") in REGIMES else f"regime {row['regime']} is not known"


def loop_measurement(row: Mapping[str, str]) -> Measurement:
    """Return the run of a row.

    Raises:
        InputError, ValueError, KeyError: a name or number that cannot be, or one that is missing.

    """
    tp, pp, dp, ep = (int(row.get(name) or 1) for name in ("tp", "pp", "dp", "ep"))
    model = find_model(MODELS.get(row["model"], row["model"])).value
    gpu, engine = find_gpu(row["gpu"]).value, find_engine(row["engine"])
    ratio = (1.0 + float(row.get("length_ratio") or 1.0)) / 2.0
    input_len, output_len = (max(round(int(row[name]) * ratio), 1) for name in ("isl", "osl"))
    concurrency = int(row["concurrency"])
    static = REGIMES[row.get("regime", "")] == "static"
    values: dict[str, Any] = {}
    if static:
        values["output_tok_s"] = float(row["output_tok_s_per_gpu"]) * tp * pp * dp
    else:
        ttft_ms, tpot_ms = float(row["ttft_ms"]), float(row["tpot_ms"])
        life_ms = ttft_ms + tpot_ms * (output_len - 1)
        values |= {"tpot_ms": tpot_ms, "e2e_ms": life_ms, "output_tok_s": concurrency * output_len / life_ms * 1e3}
    return Measurement(
        run_id=row["id"],
        role="fit",
        source=row["source"],
        gpu=gpu.name,
        gpus=tp * pp * dp,
        engine=engine.name,
        engine_version=_version(engine.name, row.get("engine_version", ""), row.get("measured", "")),
        model=model.name,
        dtype=row.get("weights") or model.quantization or model.dtype,
        kv_dtype=row.get("kv_dtype") or "auto",
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        max_num_batched_tokens=int(float(row["step_tokens"])) if row.get("step_tokens") else None,
        regime="static" if static else "steady",
        batch=max(round(concurrency / dp), 1),
        input_len=input_len,
        output_len=output_len,
        **values,
    )


def _version(engine: str, stated: str, measured: str) -> str:
    """Return the version that a row states, or the latest release on the day of its measurement where that is known."""
    if (stated and not stated.startswith("nightly")) or not measured:
        return stated
    latest = [version for day, version in RELEASED.get(engine, ()) if day <= measured]
    return f"{latest[-1]} ({stated or 'not stated'}, {measured})" if latest else stated
