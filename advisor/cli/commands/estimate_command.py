"""``advisor estimate``: time, throughput and memory of one deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from advisor.cli.options.electricity import Electricity, co2_body, co2_lines
from advisor.cli.options.evidence import PricedEvidence
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.layout import Adapted, FixedLayout, Speculative
from advisor.cli.options.output import EstimateOutput
from advisor.cli.options.workload import StaticBatch
from advisor.cli.output import answer
from advisor.cli.program import refuse
from catalog.schema import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.render.document import Document
    from advisor.render.tables import Column


def estimate(
    *,
    hardware: Hardware,
    requests: StaticBatch,
    layout: FixedLayout,
    speculation: Speculative,
    adapters: Adapted,
    evidence: PricedEvidence,
    electricity: Electricity,
    output: EstimateOutput,
) -> None:
    """Estimate time, throughput and memory of one deployment.

    All requests of the batch arrive at once (static). Exits with 1 if the weights do not fit.

    \b
    advisor estimate --model llama-13b --gpus 4xA100 --tp 4 --batch 32
    advisor estimate --model llama-70b --gpus 4xH100 --tp 4 --batch 16 --products
    advisor estimate --model llama-70b --gpus 4xH100 --tp 4 --batch 16
      --speculate eagle
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.prediction.estimate_row import estimate_row
    from advisor.prediction.estimation import estimate  # brings numpy

    grid = electricity.grid()
    result = estimate(
        **hardware.keywords(),
        **layout.knobs(),
        batch=requests.batch,
        input_len=requests.input_len,
        output_len=requests.output_len,
        images=requests.images,
        image_size=requests.image_size,
        runs=evidence.read(),
        price=evidence.price,
        **speculation.keywords(),
        adapters=adapters.stated,
    )
    chosen, products, joules = output.format_, output.products, result.energy_j_per_token

    def shown() -> Document:
        from advisor.render.answers.estimation import document  # not for the machines' formats

        made = document(
            result, products=products, relax=[] if result.fits or result.kv_capacity_tokens else _what_fits(result)
        )
        return made.and_lines(
            co2_lines(grid, joules, None if joules is None else result.interval("energy_j_per_token"))
        )

    def columns() -> Sequence[Column]:
        from advisor.render.answers.estimation import metric_columns, product_columns

        return product_columns(result) if products else metric_columns(result)

    rows = [dict(product) for product in result.products] if products else [estimate_row(result)]
    answer(output, shown, body=lambda: result.to_dict() | co2_body(grid, joules), rows=lambda: rows, columns=columns)
    if not result.fits:
        needed = [note.text for note in result.notes if note.kind == "warning"]
        raise typer.Exit(1) if chosen in {"table", "json", "yaml"} else refuse("; ".join(needed))


def _what_fits(result: Estimate) -> Sequence[str]:
    """Name the smallest layout of the same GPUs that holds the model; where there is none, what would."""
    from advisor.recommendation.recommendation import recommend  # brings Optuna

    wanted = result.deployment
    other = recommend(
        result.model,
        result.cluster,
        workload=Workload(input_len=result.input_len, output_len=result.output_len),
        engine=wanted.engine,
        dtypes=[wanted.dtype],
        kv_dtypes=[wanted.kv_dtype],
        top=10_000,
        gpu_memory_utilization=wanted.gpu_memory_utilization,
        offload=wanted.offload,
    )
    if other.best is None:
        return other.relaxations
    least = min(other.candidates, key=lambda row: (row.deployment.tp * row.deployment.pp, row.deployment.pp))
    layout = f"--tp {least.deployment.tp} --pp {least.deployment.pp}"
    return [f"{layout}: the smallest layout that fits, with room for {least.max_concurrency} requests of this length"]
