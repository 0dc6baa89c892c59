"""A question about one deployment, read: what it names, resolved, and the evidence that its answer stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.prediction.demand import read_images, with_image_tokens
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import check_lengths, read_cluster, read_model
from advisor.prediction.prediction import Prediction
from catalog.engines import resolve
from catalog.schema import Workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.calibration.intervals import Regime
    from advisor.calibration.surrogate import Surrogate
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from catalog.errors import Note
    from catalog.schema import Cluster, Deployment, Measurement, Model
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentQuestion:
    """A resolved deployment of a model on a cluster, for requests of given lengths."""

    model: Model
    cluster: Cluster
    deployment: Deployment
    input_len: int
    output_len: int
    evidence: Evidence
    notes: tuple[Note, ...]
    """What was assumed."""

    @classmethod
    def read(
        cls,
        model: str | Model,
        gpus: str | Cluster,
        wanted: Deployment,
        *,
        input_len: int,
        output_len: int,
        runs: Sequence[Measurement] | Surrogate | None,
        set_gpu: Mapping[str, float | str] | None,
        images: str | int | None = None,
        image_size: str | None = None,
    ) -> DeploymentQuestion:
        """Read what the question names and resolve ``wanted``.

        Raises:
            InputError: a name, number or combination that cannot be.

        """
        known_model, cluster = read_model(model), read_cluster(gpus, set_gpu)
        text = Workload(input_len=input_len, output_len=output_len)
        asked, workload, said = with_image_tokens(
            known_model.value, text, *read_images({"images": images, "image_size": image_size})
        )
        check_lengths(asked, workload.input_len, output_len, wanted.max_model_len)
        resolved = resolve(wanted, asked, cluster.value)
        evidence = Evidence.of(runs, engine=resolved.value.engine, gpu=cluster.value.gpu, version=wanted.engine_version)
        return cls(
            model=asked,
            cluster=cluster.value,
            deployment=resolved.value,
            input_len=workload.input_len,
            output_len=output_len,
            evidence=evidence,
            notes=(*known_model.notes, *said, *cluster.notes, *resolved.notes, *evidence.notes),
        )

    def predict(self, layout: DeploymentArrays, batch: Array, regime: Regime) -> Prediction:
        """Evaluate n variants of the deployment, each at a batch of its own."""
        engine, gpu = self.deployment.engine, self.cluster.gpu
        marginal = self.evidence.marginal(engine, gpu)
        return Prediction.of(
            self.model,
            self.cluster,
            layout,
            batch=batch,
            input_len=self.input_len,
            output_len=self.output_len,
            regime=regime,
            engine=engine,
            parameters=marginal.parameters,
            mean=marginal.mean,
            residuals=self.evidence.residuals(engine, gpu, self.model),
        )
