"""Options of the requests: their lengths, how many are in flight, how they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from advisor.cli.groups import flag, group
from catalog.errors import InputError
from catalog.schema import Workload

if TYPE_CHECKING:
    from advisor.simulator.trace_files import TraceFile

PANEL = "Workload"


@group(PANEL)
class Lengths:
    """Lengths of the requests."""

    input_len: Annotated[int, flag("--input-len", "--isl", metavar="N")] = 1024
    """Tokens of a prompt."""
    output_len: Annotated[int, flag("--output-len", "--osl", metavar="N")] = 256
    """Tokens generated for each request."""


@group(PANEL)
class StaticBatch(Lengths):
    """A batch whose requests arrive together."""

    batch: Annotated[int, flag("--batch", metavar="N")]
    """Sequences at once per replica; all arrive together."""


@group(PANEL)
class InFlight(Lengths):
    """Requests kept in flight."""

    concurrency: Annotated[int | None, flag("--concurrency", metavar="N")] = None
    """Requests kept in flight over all replicas; by default as many as serve the objective best."""

    def workload(self) -> Workload:
        """Return them as the Python API takes them."""
        return Workload(input_len=self.input_len, output_len=self.output_len, concurrency=self.concurrency)


@group(PANEL)
class TunedInFlight(InFlight):
    """Requests kept in flight, or whole batches."""

    static: Annotated[bool, flag("--static")] = False
    """Whole batches that arrive at once, in place of a batch kept in flight."""


@group(PANEL)
class Traffic(Lengths):
    """Requests that arrive over time."""

    rate: Annotated[float | None, flag("--rate", metavar="PER_S")] = None
    """Requests a second that come; a trace is stretched to it."""
    trace: Annotated[str | None, flag("--trace", metavar="FILE")] = None
    """Requests of a CSV or JSON Lines file: time, input, output, or the columns of Azure's, BurstGPT's or Mooncake's traces."""
    trace_unit: Annotated[str, flag("--trace-unit", metavar="UNIT")] = "auto"
    """Unit of a trace's times: s, ms, us or ns; auto takes what its columns' names and the times' size say."""
    spread: Annotated[float, flag("--spread", metavar="CV")] = 0.0
    """Coefficient of variation of both lengths, log-normal."""
    burstiness: Annotated[float, flag("--burstiness", metavar="CV2")] = 1.0
    """Squared coefficient of variation of the gaps between arrivals; 1 is Poisson, 0 evenly spaced (1 / vLLM's --burstiness)."""
    duration: Annotated[float | None, flag("--duration", metavar="S")] = None
    """Seconds in which requests come, or that are taken of a trace.  [default: all of a trace, else 300; for a plan about 200]"""
    seed: Annotated[int, flag("--seed", metavar="N")] = 0
    """Of arrivals and lengths."""
    prefix_hit_rate: Annotated[float, flag("--prefix-hit-rate", metavar="SHARE")] = 0.0
    """Share of each prompt found in the prefix cache."""

    def requests(self) -> str | TraceFile | None:
        """Return the trace as the Python API takes it.

        Raises:
            InputError: there is a unit and no trace.

        """
        if self.trace_unit == "auto":
            return self.trace
        if self.trace is None:
            raise InputError("--trace-unit says how a trace's times are read; give the trace with --trace FILE")
        from advisor.simulator.trace_files import TraceFile  # only with a unit

        return TraceFile(path=self.trace, unit=self.trace_unit)  # type: ignore[arg-type]  # checked when it is read

    def keywords(self) -> dict[str, Any]:
        """Return what ``simulate`` and ``plan`` take of the traffic beside its workload."""
        return {
            "trace": self.requests(),
            "spread": self.spread,
            "burstiness": self.burstiness,
            "duration_s": self.duration,
            "seed": self.seed,
            "prefix_hit_rate": self.prefix_hit_rate,
        }


@group(PANEL)
class SimulatedTraffic(Traffic):
    """Traffic at a rate, from a trace, or kept in flight."""

    concurrency: Annotated[int | None, flag("--concurrency", metavar="N")] = None
    """Requests kept in flight over all replicas."""
    curve: Annotated[str | None, flag("--curve", metavar="R,R,...")] = None
    """Relative rates of equal parts of the duration, such as the hours of a day."""

    def workload(self) -> Workload:
        """Return it as the Python API takes it."""
        return Workload(
            input_len=self.input_len, output_len=self.output_len, rate=self.rate, concurrency=self.concurrency
        )

    def rates(self) -> list[float]:
        """Read the relative rates of ``--curve``.

        Raises:
            InputError: they are no numbers.

        """
        if self.curve is None:
            return []
        try:
            return [float(part) for part in self.curve.split(",")]
        except ValueError:
            raise InputError(
                f"--curve is {self.curve!r:.60}; it must be numbers with commas between, such as 0.2,1,1.5"
            ) from None
