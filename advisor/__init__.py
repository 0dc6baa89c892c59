"""How to serve an LLM on the GPUs you have: parallelism, batch, throughput, latency, memory and cost, with error bars.

    import advisor
    advisor.recommend("llama-13b", "4xA100").best

Everything public is named in ``__all__`` and loaded when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advisor.benchmarking.benchmark_plan import ProbeQuestion
    from advisor.benchmarking.probe_api import prepare_probe, probe
    from advisor.calibration.importing import Import, import_runs, read_import
    from advisor.calibration.surrogate import Surrogate
    from advisor.calibration.user_fit import fit
    from advisor.capacity.capacity_plan import CapacityPlan, plan
    from advisor.capacity.fleet_options import Change, FleetOption
    from advisor.capacity.option_traffic import simulate_option
    from advisor.fleet.autoscaling import Autoscaling, plan_autoscaling
    from advisor.fleet.fleet_plan import FleetPlan, plan_fleet
    from advisor.fleet.observation import Observation, observe
    from advisor.fleet.question import FleetModel, FleetQuestion, GpuPool
    from advisor.prediction.batch_curve import Curve, curve
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.prediction.estimation import estimate
    from advisor.prediction.evidence import Evidence, ExtraRuns
    from advisor.progress import Progress
    from advisor.recommendation.comparison import ComparedDeployment, Comparison, compare
    from advisor.recommendation.launch_command import export
    from advisor.recommendation.recommendation import Recommendation, recommend
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.peak_rate import Peak, trace_peak
    from advisor.simulator.simulation import simulate
    from advisor.simulator.simulation_answer import Simulation
    from advisor.simulator.trace_files import read_trace
    from advisor.technology.exploration import Exploration, ExplorationPoint, explore
    from advisor.training.budget import TrainingBudget
    from advisor.training.estimation import estimate_training, recommend_training
    from advisor.training.training_estimate import TrainingEstimate, TrainingRecommendation
    from advisor.tuning.tuning_run import Tuning, tune
    from advisor.validation.holdout import holdout_errors
    from advisor.validation.prediction_errors import Check, ErrorSummary
    from advisor.validation.validation import Validation, validate
    from catalog.engines import all_engines
    from catalog.errors import InputError, Note
    from catalog.features import Adapters
    from catalog.gpus import all_gpus
    from catalog.models.find import all_models
    from catalog.models.hf_config import parse_config
    from catalog.prices import OwnedGpu, all_prices, read_prices
    from catalog.runs import shipped_runs, user_runs
    from catalog.schema import Cluster, Deployment, Gpu, Measurement, Model, Price, Slo, Workload
    from catalog.training import TrainingLayout

    __version__: str

__all__ = [
    "Adapters",
    "Arrivals",
    "Autoscaling",
    "CapacityPlan",
    "Change",
    "Check",
    "Cluster",
    "ComparedDeployment",
    "Comparison",
    "Curve",
    "Deployment",
    "ErrorSummary",
    "Estimate",
    "Evidence",
    "Exploration",
    "ExplorationPoint",
    "ExtraRuns",
    "FleetModel",
    "FleetOption",
    "FleetPlan",
    "FleetQuestion",
    "Gpu",
    "GpuPool",
    "Import",
    "InputError",
    "Measurement",
    "Model",
    "Note",
    "Observation",
    "OwnedGpu",
    "Peak",
    "Price",
    "ProbeQuestion",
    "Progress",
    "Recommendation",
    "Simulation",
    "Slo",
    "Surrogate",
    "TrainingBudget",
    "TrainingEstimate",
    "TrainingLayout",
    "TrainingRecommendation",
    "Tuning",
    "Validation",
    "Workload",
    "all_engines",
    "all_gpus",
    "all_models",
    "all_prices",
    "compare",
    "curve",
    "estimate",
    "estimate_training",
    "explore",
    "export",
    "fit",
    "holdout_errors",
    "import_runs",
    "observe",
    "parse_config",
    "plan",
    "plan_autoscaling",
    "plan_fleet",
    "prepare_probe",
    "probe",
    "read_import",
    "read_prices",
    "read_trace",
    "recommend",
    "recommend_training",
    "shipped_runs",
    "simulate",
    "simulate_option",
    "trace_peak",
    "tune",
    "user_runs",
    "validate",
]

_HOMES = {
    "catalog.errors": ("InputError", "Note"),
    "catalog.prices": ("OwnedGpu", "all_prices", "read_prices"),
    "advisor.validation.holdout": ("holdout_errors",),
    "advisor.validation.prediction_errors": ("Check", "ErrorSummary"),
    "advisor.benchmarking.benchmark_plan": ("ProbeQuestion",),
    "advisor.capacity.option_traffic": ("simulate_option",),
    "advisor.capacity.fleet_options": ("Change", "FleetOption"),
    "advisor.simulator.peak_rate": ("Peak", "trace_peak"),
    "advisor.simulator.arrivals": ("Arrivals",),
    "advisor.prediction.evidence": ("Evidence", "ExtraRuns"),
    "advisor.capacity.capacity_plan": ("CapacityPlan", "plan"),
    "advisor.fleet.autoscaling": ("Autoscaling", "plan_autoscaling"),
    "advisor.fleet.fleet_plan": ("FleetPlan", "plan_fleet"),
    "advisor.fleet.observation": ("Observation", "observe"),
    "advisor.fleet.question": ("FleetModel", "FleetQuestion", "GpuPool"),
    "advisor.prediction.batch_curve": ("Curve", "curve"),
    "advisor.prediction.deployment_estimate": ("Estimate",),
    "advisor.prediction.estimation": ("estimate",),
    "advisor.calibration.importing": ("Import", "import_runs", "read_import"),
    "advisor.recommendation.comparison": ("ComparedDeployment", "Comparison", "compare"),
    "advisor.recommendation.launch_command": ("export",),
    "advisor.benchmarking.probe_api": ("prepare_probe", "probe"),
    "advisor.progress": ("Progress",),
    "advisor.recommendation.recommendation": ("Recommendation", "recommend"),
    "advisor.calibration.user_fit": ("fit",),
    "advisor.simulator.trace_files": ("read_trace",),
    "advisor.simulator.simulation": ("simulate",),
    "advisor.simulator.simulation_answer": ("Simulation",),
    "advisor.calibration.surrogate": ("Surrogate",),
    "advisor.technology.exploration": ("Exploration", "ExplorationPoint", "explore"),
    "advisor.training.budget": ("TrainingBudget",),
    "advisor.training.estimation": ("estimate_training", "recommend_training"),
    "advisor.training.training_estimate": ("TrainingEstimate", "TrainingRecommendation"),
    "advisor.tuning.tuning_run": ("Tuning", "tune"),
    "advisor.validation.validation": ("Validation", "validate"),
    "catalog.models.hf_config": ("parse_config",),
    "catalog.engines": ("all_engines",),
    "catalog.features": ("Adapters",),
    "catalog.gpus": ("all_gpus",),
    "catalog.models.find": ("all_models",),
    "catalog.runs": ("shipped_runs", "user_runs"),
    "catalog.training": ("TrainingLayout",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_SCHEMA = "catalog.schema"
_SIBLINGS = ("catalog", "search", "probes", "app")

if not TYPE_CHECKING:  # a type checker would take every name for one that __getattr__ knows

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value = _version()
        elif name in __all__:
            value = getattr(importlib.import_module(_HOME.get(name, _SCHEMA)), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})


def _version() -> str:
    from importlib import metadata  # slow to import, and only --version asks

    try:
        return metadata.version("advisor")
    except metadata.PackageNotFoundError:
        return "0+not.installed"


def _check_siblings() -> None:
    """Raise ``ImportError`` where a file of the user's hides one of the packages that come with this one.

    They have common names, and a script's own folder comes first on Python's path.
    """
    root = Path(__file__).resolve().parent.parent
    for name in _SIBLINGS:
        location = _file(name)
        if not location:
            raise ImportError(
                f"advisor needs its own package {name!r}, but Python finds none; install advisor again", name=name
            )
        if Path(location).resolve().parent.parent != root and not _installed(name, location):
            raise ImportError(
                f"advisor needs its own package {name!r}, but Python finds {location}; rename that file",
                name=name,
                path=location,
            )


def _file(name: str) -> str:
    """Return where the package of that name would be, or already has been, imported from; empty if there is none."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", [])), "")
    spec = importlib.util.find_spec(name)
    if spec is None:
        return ""
    return spec.origin or next(iter(spec.submodule_search_locations or []), "")


def _installed(name: str, location: str) -> bool:
    """Return whether advisor's own distribution has put the file ``location`` where it is, beside this package or not."""
    from importlib import metadata  # slow to import, and seldom needed

    try:
        own = metadata.files("advisor") or []
    except metadata.PackageNotFoundError:
        return False
    wanted = f"{name}/__init__.py"
    return any(Path(file.locate()).resolve() == Path(location).resolve() for file in own if file.as_posix() == wanted)


_check_siblings()
