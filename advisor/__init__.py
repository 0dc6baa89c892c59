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
    from advisor.curves import Curve, curve
    from advisor.estimation import Estimate, estimate
    from advisor.fitting.refinement import fit
    from advisor.fitting.surrogate import Surrogate
    from advisor.importing import import_runs
    from advisor.judging.validation import Validation, validate
    from advisor.launch import export
    from advisor.measuring.probing import probe
    from advisor.planning.capacity import CapacityPlan, plan
    from advisor.progress import Progress
    from advisor.recommendation import Recommendation, recommend
    from advisor.serving.simulation import Simulation, simulate
    from advisor.serving.traces import read_trace
    from advisor.tuning.live import Tuning, tune
    from catalog.config import parse_config
    from catalog.engines import all_engines
    from catalog.gpus import all_gpus
    from catalog.models import all_models
    from catalog.runs import shipped_runs, user_runs
    from catalog.schema import (
        Cluster,
        Deployment,
        Gpu,
        InputError,
        Measurement,
        Model,
        Note,
        Price,
        Slo,
        Workload,
    )

    __version__: str

__all__ = [
    "CapacityPlan",
    "Cluster",
    "Curve",
    "Deployment",
    "Estimate",
    "Gpu",
    "InputError",
    "Measurement",
    "Model",
    "Note",
    "Price",
    "Progress",
    "Recommendation",
    "Simulation",
    "Slo",
    "Surrogate",
    "Tuning",
    "Validation",
    "Workload",
    "all_engines",
    "all_gpus",
    "all_models",
    "curve",
    "estimate",
    "export",
    "fit",
    "import_runs",
    "parse_config",
    "plan",
    "probe",
    "read_trace",
    "recommend",
    "shipped_runs",
    "simulate",
    "tune",
    "user_runs",
    "validate",
]

_HOMES = {
    "advisor.planning.capacity": ("CapacityPlan", "plan"),
    "advisor.curves": ("Curve", "curve"),
    "advisor.estimation": ("Estimate", "estimate"),
    "advisor.importing": ("import_runs",),
    "advisor.launch": ("export",),
    "advisor.measuring.probing": ("probe",),
    "advisor.progress": ("Progress",),
    "advisor.recommendation": ("Recommendation", "recommend"),
    "advisor.fitting.refinement": ("fit",),
    "advisor.serving.traces": ("read_trace",),
    "advisor.serving.simulation": ("Simulation", "simulate"),
    "advisor.fitting.surrogate": ("Surrogate",),
    "advisor.tuning.live": ("Tuning", "tune"),
    "advisor.judging.validation": ("Validation", "validate"),
    "catalog.config": ("parse_config",),
    "catalog.engines": ("all_engines",),
    "catalog.gpus": ("all_gpus",),
    "catalog.models": ("all_models",),
    "catalog.runs": ("shipped_runs", "user_runs"),
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
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415  slow to import, and only --version asks

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
        found = _file(name)
        if not found:
            raise ImportError(
                f"advisor needs its own package {name!r}, but Python finds none; install advisor again", name=name
            )
        if Path(found).resolve().parent.parent != root and not _installed(name, found):
            raise ImportError(
                f"advisor needs its own package {name!r}, but Python finds {found}; rename that file",
                name=name,
                path=found,
            )


def _file(name: str) -> str:
    """Where the package of that name would be, or already has been, imported from; empty if there is none."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", [])), "")
    spec = importlib.util.find_spec(name)
    if spec is None:
        return ""
    return spec.origin or next(iter(spec.submodule_search_locations or []), "")


def _installed(name: str, found: str) -> bool:
    """Whether advisor's own distribution has put ``found`` where it is, beside this package or not."""
    from importlib import metadata  # noqa: PLC0415  slow to import, and seldom needed

    try:
        own = metadata.files("advisor") or []
    except metadata.PackageNotFoundError:
        return False
    wanted = f"{name}/__init__.py"
    return any(Path(file.locate()).resolve() == Path(found).resolve() for file in own if file.as_posix() == wanted)


_check_siblings()
