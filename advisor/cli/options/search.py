"""Options of the search for a deployment."""

from __future__ import annotations

from typing import Annotated, Any

from advisor.cli.groups import flag, group

PANEL = "Search"


@group(PANEL)
class Goal:
    """What is optimised."""

    objective: Annotated[str, flag("--objective", metavar="GOAL")] = "throughput_per_gpu"
    """throughput_per_gpu, throughput, latency (of a whole request), ttft, tpot or cost."""


@group(PANEL)
class StoredSearch(Goal):
    """What is optimised, and where the study is kept."""

    storage: Annotated[str | None, flag("--storage", metavar="URL")] = None
    """Keep the Optuna study: sqlite:///FILE, postgresql://..., or a FILE.journal."""
    study_name: Annotated[str | None, flag("--study-name", metavar="NAME")] = None
    """Name of the study in the storage."""

    def keywords(self) -> dict[str, Any]:
        """Return what ``recommend`` and ``tune`` take."""
        return {"objective": self.objective, "storage": self.storage, "study_name": self.study_name}


@group(PANEL)
class Search(StoredSearch):
    """What is optimised, how, and how much of it is shown."""

    trials: Annotated[int | None, flag("--trials", metavar="N")] = None
    """Sample about this many deployments instead of evaluating all."""
    top: Annotated[int, flag("--top", metavar="N")] = 10
    """Layouts to show."""
    disaggregate: Annotated[bool, flag("--disaggregate")] = False
    """Also split the GPUs, of one kind or of two (4xH200,4xH100), into a pool for prompts and one for outputs, and say whether that pays."""

    def keywords(self) -> dict[str, Any]:
        """Return what ``recommend`` takes."""
        return {
            **StoredSearch.keywords(self),
            "trials": self.trials,
            "top": self.top,
            "disaggregate": self.disaggregate,
        }


@group(PANEL)
class ComparedSearch:
    """What rows are ordered by, and how many are shown."""

    objective: Annotated[str | None, flag("--objective", metavar="GOAL")] = None
    """cost, size (largest models first) or an objective of recommend.  [default: cost; size if no model is named]"""
    top: Annotated[int, flag("--top", metavar="N")] = 10
    """Rows to show."""

    def keywords(self) -> dict[str, Any]:
        """Return what ``compare`` takes."""
        return {"objective": self.objective, "top": self.top}


@group(PANEL)
class PlannedSearch:
    """What a capacity plan optimises and shows."""

    objective: Annotated[str, flag("--objective", metavar="GOAL")] = "cost"
    """cost, gpus or energy."""
    top: Annotated[int, flag("--top", metavar="N")] = 2
    """Layouts to show for each kind of GPU."""
    disaggregate: Annotated[bool, flag("--disaggregate")] = False
    """Also try fleets with GPUs for prompts and others for outputs, of layouts and of the named kinds of their own."""
    search_budgets: Annotated[bool, flag("--search-budgets")] = False
    """Also try smaller --max-num-batched-tokens where a limit, and not saturation, decides how many replicas there are."""
    worth: Annotated[bool, flag("--worth")] = False
    """Also say what measuring one of the best layouts is worth in dollars a month."""


@group(PANEL)
class Validated:
    """How much is judged beside the predictions."""

    refit: Annotated[bool, flag("--refit/--no-refit")] = True
    """Also refit without each model, GPU and engine in turn (a minute with --published)."""
    baselines: Annotated[bool, flag("--baselines/--no-baselines")] = True
    """Also judge simpler methods fitted to the same runs: the roofline, the nearest run, trees."""
    ablation: Annotated[bool, flag("--ablation")] = False
    """Also refit with one part of the model left out at a time."""
    jobs: Annotated[int, flag("--jobs", metavar="N")] = 1
    """Processes for refitting."""
