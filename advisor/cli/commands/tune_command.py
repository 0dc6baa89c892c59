"""``advisor tune``: measure until it is certain which deployment is best."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from advisor.cli.measuring import ended_by_sigterm, watched
from advisor.cli.options.evidence import Priced
from advisor.cli.options.hardware import TunedHardware
from advisor.cli.options.layout import TunedEngine
from advisor.cli.options.output import Output
from advisor.cli.options.probing import TuningKept
from advisor.cli.options.search import StoredSearch
from advisor.cli.options.slo import MeanLimits
from advisor.cli.options.values import seconds
from advisor.cli.options.workload import TunedInFlight
from advisor.cli.output import answer
from advisor.cli.program import nothing_feasible, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from advisor.benchmarking.session import ProbeSession
    from probes.sweep import Sweep


def tune(
    *,
    hardware: TunedHardware,
    requests: TunedInFlight,
    limits: MeanLimits,
    search: StoredSearch,
    engine: TunedEngine,
    evidence: Priced,
    kept: TuningKept,
    output: Output,
) -> None:
    """Measure until it is certain which deployment is best.

    Each round measures what would change the choice most per second of measuring, and estimates everything again. Ends when the
    choice is certain and confirmed, or the budget is spent; the same command continues where it stopped.

    \b
    advisor tune --model llama-13b --gpus local --budget 5m
    advisor tune --model llama-13b --gpus 4xH200 --dry-run
    """  # noqa: D301  Click's mark for lines that stay as they are
    began = time.monotonic()
    from advisor.render.answers.tuning import document, tuning_rows
    from advisor.tuning.decision import NothingFits  # brings numpy
    from advisor.tuning.tuning_run import tune  # brings Optuna

    with ended_by_sigterm(), ExitStack() as shown:
        tell: Callable[[str], None] | None = None

        def watch(ready: ProbeSession) -> Callable[[Sweep], None] | None:
            """Show this round in place of the one before."""
            nonlocal tell
            shown.close()
            seen, tell = shown.enter_context(watched(ready))
            return seen

        def say(text: str) -> None:
            if tell:
                tell(text)

        try:
            tuning = tune(
                hardware.model,
                hardware.gpus,
                **search.keywords(),
                workload=requests.workload(),
                slo=limits.slo(),
                regime="static" if requests.static else "steady",
                engine=engine.engine,
                dtype=engine.dtype,
                budget_s=seconds(hardware.budget),
                device=hardware.device,
                max_batch=engine.max_num_seqs,
                price=evidence.price,
                out=kept.out,
                store=kept.runs,
                dry_run=kept.dry_run,
                began=began,
                watch=watch,
                say=say,
            )
        except NothingFits as error:
            raise refuse(str(error)) from error
    if not (kept.dry_run or tuning.runs):
        why = f"{', '.join(tuning.failed)} failed, see {tuning.logs}" if tuning.failed else tuning.ended
        raise refuse(f"nothing was measured: {why}")
    answer(output, lambda: document(tuning), body=tuning.to_dict, rows=lambda: tuning_rows(tuning))
    if tuning.best is None:
        raise nothing_feasible(tuning.relaxations, output.format_)
