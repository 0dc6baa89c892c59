"""What hypothesis asks of the physics: any model of the catalog on any GPU, laid out and loaded in many ways at once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.parameters import NAMES, PRIORS, Parameters
from advisor.prediction.prediction import Prediction
from catalog.engines import pipeline_layers, valid_ep, valid_pp, valid_tp
from catalog.gpus import all_gpus
from catalog.models.find import all_models
from catalog.schema import Cluster, Gpu, Model

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = 24
"""Deployments in one question: a failure names the row, so many at once cost nothing in clarity."""

MODELS = functools.cache(lambda: tuple(model for model in all_models() if model.stack is None))
GPUS = functools.cache(all_gpus)
models = st.sampled_from(MODELS())
gpus = st.sampled_from(GPUS())


@st.composite
def parameters(draw: st.DrawFn, spread: float = 1.5) -> Parameters:
    """Parameters of the time model, up to ``spread`` standard deviations from what is believed of them."""
    typical = Parameters.typical().unbounded()
    sigmas = np.array([PRIORS[name].spread for name in NAMES])
    offsets = draw(st.lists(st.floats(-spread, spread), min_size=len(NAMES), max_size=len(NAMES)))
    return Parameters.from_unbounded(typical + sigmas * np.array(offsets))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Question:
    """``ROWS`` deployments of one model on one cluster, each with a load of its own kind."""

    model: Model
    cluster: Cluster
    parameters: Parameters
    columns: Mapping[str, np.ndarray]
    batch: np.ndarray
    input_len: int
    output_len: int

    def __repr__(self) -> str:
        return f"<{self.model.name} on {self.cluster}, {self.parameters}>"

    def evaluate(self, regime: str, *, cluster: Cluster | None = None, **columns: Any) -> Prediction:
        """All rows in one regime, with other columns or another cluster if given."""
        where = cluster or self.cluster
        layout = DeploymentArrays.from_columns({**self.columns, **columns}, self.model, where.gpu)
        return Prediction.of(
            self.model,
            where,
            layout,
            batch=self.batch,
            input_len=self.input_len,
            output_len=self.output_len,
            regime=regime,
            parameters=self.parameters,
        )

    def without(self, *names: str) -> Question:
        """The same with the columns ``names`` at their plainest."""
        plain = {"tp": 1, "pp": 1, "dp": 1, "ep": 1, "offload": 0.0, "compiled": 1.0, "sequence_parallel": 0.0}
        return replace(self, columns={**self.columns, **{name: np.full(ROWS, float(plain[name])) for name in names}})

    def row(self, index: int) -> str:
        """One row in words, to say where a property fails."""
        told = {name: values[index].item() for name, values in self.columns.items()}
        return (
            f"{self.model.name} on {self.cluster}, batch {self.batch[index]:g}, {self.input_len} in, "
            f"{self.output_len} out, {told}"
        )

    def require(self, holds: np.ndarray, what: str) -> None:
        """Fail with the first row of which ``what`` does not hold."""
        wrong = np.flatnonzero(~np.asarray(holds))
        assert not len(wrong), f"{what}: {self.row(wrong[0])}"


@st.composite
def questions(draw: st.DrawFn, *, lengths: st.SearchStrategy[int] | None = None) -> Question:
    """A model, a cluster, parameters, and ``ROWS`` deployments that an engine would start."""
    model, gpu = draw(models), draw(gpus)
    cluster = Cluster(
        gpu=gpu,
        gpus_per_node=draw(st.sampled_from([1, 2, 4, 8])),
        nodes=draw(st.sampled_from([1, 2, 4])),
        network_gbps=draw(st.sampled_from([3.0, 12.5, 50.0])),
    )
    pick = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    some = functools.partial(pick.choice, size=ROWS)
    tp = some(valid_tp(model, most=16))
    pp = some([degree for degree in valid_pp(model, most=8) if min(pipeline_layers(model.num_hidden_layers, degree))])
    dp = some([1, 2, 4])
    ep = np.array([pick.choice(valid_ep(model, int(t), int(d))) for t, d in zip(tp, dp, strict=True)])
    tokens = some([512, 2048, 8192, 16384])
    formats = [model.quantization] if model.quantization else ["float16", "fp8", "int8", "int4", "float32"]
    columns = {
        "tp": tp,
        "pp": pp,
        "dp": dp,
        "ep": ep,
        "max_num_batched_tokens": tokens,
        "max_num_seqs": np.minimum(some([1, 7, 64, 256, 500]), tokens),
        "max_model_len": np.full(ROWS, 8192),
        "gpu_memory_utilization": some([0.5, 0.9]),
        "offload": some([0.0, 0.0, 0.5]),
        "compiled": some([1.0, 1.0, 0.0]),
        "sequence_parallel": some([0.0, 1.0]),
        "dtype": some(formats),
        "kv_dtype": some(["auto", "fp8"]),
    }
    length = st.sampled_from([1, 16, 100, 500, 1024, 3000]) if lengths is None else lengths
    return Question(
        model=model,
        cluster=cluster,
        parameters=draw(parameters()),
        columns=columns,
        batch=some([1, 2, 3, 10, 33, 100, 700]).astype(float),
        input_len=draw(length),
        output_len=draw(st.sampled_from([1, 2, 17, 256, 1000])),
    )


def faster(cluster: Cluster, what: str, factor: float) -> Cluster:
    """The cluster with one resource ``factor`` times as large."""
    if what == "network":
        return replace(cluster, network_gbps=cluster.network_gbps * factor)
    names = {
        "bandwidth": ["memory_bandwidth_gbps"],
        "link": ["nvlink_gbps"],
        "pcie": ["pcie_gbps"],
        "memory": ["memory_gib"],
        "flops": ["fp16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops"],
        "fp16 alone": ["fp16_tflops"],
        "fp8 alone": ["fp8_tflops"],
    }[what]
    gpu: Gpu = replace(cluster.gpu, **{name: getattr(cluster.gpu, name) * factor for name in names})
    return replace(cluster, gpu=gpu)
