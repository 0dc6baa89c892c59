"""``advisor export``: a deployment as what starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.cli.options.evidence import EvidenceOptions
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.layout import ChosenLayout
from advisor.cli.options.output import ExportOutput
from advisor.cli.options.search import Goal
from advisor.cli.options.slo import MeanLimits, SureLimits
from advisor.cli.options.workload import InFlight
from advisor.cli.output import progress, write
from advisor.cli.program import nothing_feasible, refuse
from catalog.errors import InputError

if TYPE_CHECKING:
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.recommendation import Recommendation


def export(
    *,
    hardware: Hardware,
    requests: InFlight,
    limits: SureLimits,
    search: Goal,
    layout: ChosenLayout,
    evidence: EvidenceOptions,
    output: ExportOutput,
) -> None:
    """Write the command line or manifest that starts a deployment.

    Formats are engines' command lines, a Compose file and a Kubernetes manifest.
    With a layout (--tp, --pp, --dp or --ep), exports that deployment if it fits; without one, the deployment that is
    recommended for the workload. Exits with 1 if nothing fits.

    \b
    advisor export --model llama-13b --gpus 4xA100 --format compose > compose.yaml
    advisor export --model llama-70b --gpus 8xH100 --tp 4 --dp 2 --engine sglang
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.prediction.demand import read_demand
    from advisor.prediction.estimation import estimate  # brings numpy
    from advisor.recommendation.launch_command import export
    from advisor.recommendation.recommendation import recommend

    degrees = layout.degrees()
    common: dict[str, Any] = {
        **hardware.keywords(),
        **layout.knobs(),
        "offload": layout.offload,
        "runs": evidence.read(),
    }
    result: Estimate | Recommendation
    if degrees:
        _check_unused(requests, limits, next(iter(degrees)))
        lengths = read_demand(None, None, requests.question()).workload
        result = estimate(**common, **degrees, batch=1, input_len=lengths.input_len, output_len=lengths.output_len)
        if not result.fits:
            raise refuse("; ".join(note.text for note in result.notes if note.kind == "warning"))
    else:
        allowed = {
            "dtypes": [common.pop("dtype")],
            "kv_dtypes": [common.pop("kv_dtype")],
            "max_batch": common.pop("max_num_seqs"),
        }
        with progress("searching every valid deployment"):
            result = recommend(
                **common,
                **allowed,
                **requests.keywords(),
                **limits.keywords(),
                confidence=limits.confidence,
                objective=search.objective,
            )
        if result.best is None:
            raise nothing_feasible(result.relaxations)
    text = export(result, output.target or layout.engine)
    write(text if text.endswith("\n") else f"{text}\n")


def _check_unused(requests: InFlight, limits: MeanLimits, degree: str) -> None:
    """Refuse options that choose a layout where one is stated."""
    chooses = {
        "--concurrency": requests.concurrency,
        "--users": requests.users,
        "--ttft": limits.ttft,
        "--tpot": limits.tpot,
        "--e2e": limits.e2e,
    }
    for name, value in chooses.items():
        if value is not None:
            raise InputError(f"{name} chooses a layout, but --{degree} states one; leave out one of the two")
