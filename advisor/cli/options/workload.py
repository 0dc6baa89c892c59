"""Options of the requests: their lengths, how many are in flight, how they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from advisor.cli.groups import flag, group
from advisor.cli.options.values import use_names
from catalog.errors import InputError
from catalog.quantities import COUNT, PER_SECOND, SECONDS, SHARE
from catalog.schema import Workload

if TYPE_CHECKING:
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.benchmark_client import BenchmarkClient
    from advisor.simulator.trace_files import TraceFile

PANEL = "Workload"
INPUT_LEN = flag("--input-len", "--isl", metavar="N", quantity=COUNT)
OUTPUT_LEN = flag("--output-len", "--osl", metavar="N", quantity=COUNT)


IMAGES = flag("--images", metavar="N", quantity=COUNT)
IMAGE_SIZE = flag("--image-size", metavar="HxW")


class ImageHelp:
    """Help of the options of images, for groups that have them: no group, or they would come first in a panel."""

    images: int | None
    """Images in each prompt, beside its --input-len tokens of text."""
    image_size: str | None
    """Height and width of an image in pixels.  [default: 1024x1024]"""


@group(PANEL)
class Lengths:
    """Lengths of the requests."""

    input_len: Annotated[int, INPUT_LEN] = 1024
    """Tokens of a prompt."""
    output_len: Annotated[int, OUTPUT_LEN] = 256
    """Tokens generated for each request."""


@group(PANEL)
class Used(ImageHelp):
    """Lengths of the requests, stated or as a use has them, and who sends them."""

    use: Annotated[str | None, flag("--use", metavar="USE", completion=use_names)] = None
    """chat, rag, agent, summarise, batch or code; sets the lengths, limits and think time that are not stated."""
    input_len: Annotated[int | None, INPUT_LEN] = None
    """Tokens of a prompt.  [default: the use's, else 1024]"""
    output_len: Annotated[int | None, OUTPUT_LEN] = None
    """Tokens generated for each request.  [default: the use's, else 256]"""
    users: Annotated[float | None, flag("--users", metavar="N", quantity=COUNT)] = None
    """Concurrent users, instead of a rate or a concurrency; each asks again a think time after an answer."""
    think_time: Annotated[float | None, flag("--think-time", metavar="S", quantity=SECONDS)] = None
    """Seconds from an answer to the next request of the same user or agent.  [default: the use's]"""
    images: Annotated[int | None, IMAGES] = None
    image_size: Annotated[str | None, IMAGE_SIZE] = None

    def question(self) -> dict[str, Any]:
        """Return them as ``QuestionFlags``."""
        return {
            "use": self.use,
            "users": self.users,
            "think_time": self.think_time,
            "input_len": self.input_len,
            "output_len": self.output_len,
            "images": self.images,
            "image_size": self.image_size,
        }


@group(PANEL)
class SharedPrompts:
    """What prompts have in common."""

    shared_prefix: Annotated[int, flag("--shared-prefix", metavar="N", quantity=COUNT)] = 0
    """Tokens of a system prompt that precedes the --input-len tokens of every request."""
    num_prefixes: Annotated[int, flag("--num-prefixes", metavar="N")] = 1
    """Number of system prompts, which requests or sessions use in turn."""
    turns: Annotated[int, flag("--turns", metavar="N")] = 1
    """Requests per session; each sends the conversation so far and --input-len tokens more. The rate counts requests."""
    sessions: Annotated[str | None, flag("--sessions", metavar="FILE")] = None
    """Sessions that grow, wait and branch, from a JSON Lines file (docs/guides/simulate.md)."""

    def shared(self) -> dict[str, Any]:
        """Return it as ``recommend``, ``simulate`` and ``plan`` take it."""
        return {
            "shared_prefix": self.shared_prefix,
            "num_prefixes": self.num_prefixes,
            "turns": self.turns,
            "sessions": self.sessions,
        }


@group(PANEL)
class StaticBatch(Lengths, ImageHelp):
    """A batch whose requests arrive together."""

    batch: Annotated[int, flag("--batch", metavar="N", quantity=COUNT)]
    """Sequences at once per replica; all arrive together."""
    images: Annotated[int | None, IMAGES] = None
    image_size: Annotated[str | None, IMAGE_SIZE] = None


CONCURRENCY = flag("--concurrency", metavar="N", quantity=COUNT)


@group(PANEL)
class InFlight(Used):
    """Requests kept in flight."""

    concurrency: Annotated[int | None, CONCURRENCY] = None
    """Requests kept in flight over all replicas.  [default: the number that serves the objective best]"""
    trace: Annotated[str | None, flag("--trace", metavar="FILE")] = None
    """Take the mean lengths, and with hash_ids what prompts share, from the requests in a CSV or JSON Lines file, which needs no times."""

    def keywords(self) -> dict[str, Any]:
        """Return what ``recommend`` takes of it.

        Raises:
            InputError: the trace cannot be read.

        """
        return {**self.question(), "concurrency": self.concurrency, "workload": self._lengths()}

    def _lengths(self) -> Arrivals | None:
        if self.trace is None:
            return None
        from advisor.simulator.trace_files import TraceFile, read_trace  # only with a trace

        return read_trace(TraceFile(path=self.trace, timed=False))


@group(PANEL)
class SharedInFlight(SharedPrompts, InFlight):
    """Requests kept in flight, whose prompts may have something in common."""

    def keywords(self) -> dict[str, Any]:
        """Return what ``recommend`` takes of it."""
        return {**InFlight.keywords(self), **self.shared()}


@group(PANEL)
class TunedInFlight(Lengths):
    """Requests kept in flight, or whole batches."""

    concurrency: Annotated[int | None, CONCURRENCY] = None
    """Requests kept in flight over all replicas.  [default: the number that serves the objective best]"""

    def workload(self) -> Workload:
        """Return them as the Python API takes them."""
        return Workload(input_len=self.input_len, output_len=self.output_len, concurrency=self.concurrency)

    static: Annotated[bool, flag("--static")] = False
    """Measure whole batches that arrive at once, instead of a batch kept in flight."""


@group(PANEL)
class Traffic(SharedPrompts, Used):
    """Requests that arrive over time."""

    rate: Annotated[float | None, flag("--rate", metavar="PER_S", quantity=PER_SECOND)] = None
    """Requests per second; a trace is stretched to it."""
    trace: Annotated[str | None, flag("--trace", metavar="FILE")] = None
    """Requests from a CSV or JSON Lines file: time, input, output, or the columns of Azure's, BurstGPT's or Mooncake's traces."""
    trace_unit: Annotated[str, flag("--trace-unit", metavar="UNIT")] = "auto"
    """Unit of a trace's times: s, ms, us or ns; auto infers it from column names and sizes."""
    classes: Annotated[str | None, flag("--classes", metavar="FILE")] = None
    """Several classes of requests with shares or rates, lengths, priorities and limits, from a YAML or JSON file (docs/guides/classes.md)."""
    spread: Annotated[float | None, flag("--spread", metavar="CV", quantity=SHARE)] = None
    """Coefficient of variation of both lengths, log-normal.  [default: the use's, else 0]"""
    burstiness: Annotated[float, flag("--burstiness", metavar="CV2")] = 1.0
    """Squared coefficient of variation of the gaps between arrivals; 1 is Poisson, 0 evenly spaced (1 / vLLM's --burstiness)."""
    duration: Annotated[float | None, flag("--duration", metavar="S", quantity=SECONDS)] = None
    """Seconds of traffic, or of the trace to use.  [default: the whole trace; else 300, or longer for 1000 requests; in a plan about 200]"""
    seed: Annotated[int, flag("--seed", metavar="N")] = 0
    """Random seed of arrivals and lengths."""
    enable_prefix_caching: Annotated[bool, flag("--enable-prefix-caching/--no-enable-prefix-caching")] = True
    """Cache computed prompts, block by block, for requests that share them."""
    prefix_hit_rate: Annotated[float | None, flag("--prefix-hit-rate", metavar="SHARE", quantity=SHARE)] = None
    """Share of each prompt found in the prefix cache.  [default: the use's, else 0]"""

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
        """Return what ``simulate`` and ``plan`` take of the traffic."""
        return {
            **self.question(),
            "rate": self.rate,
            "trace": self.requests(),
            "classes": self.classes,
            "spread": self.spread,
            "burstiness": self.burstiness,
            "duration_s": self.duration,
            "seed": self.seed,
            "prefix_hit_rate": self.prefix_hit_rate,
            **self.shared(),
            "enable_prefix_caching": self.enable_prefix_caching,
        }


@group(PANEL)
class SimulatedTraffic(Traffic):
    """Traffic at a rate, from a trace, or kept in flight."""

    concurrency: Annotated[int | None, CONCURRENCY] = None
    """Requests kept in flight over all replicas."""
    client: Annotated[str | None, flag("--client", metavar="NAME")] = None
    """With --concurrency, measure as a benchmark client does, its first burst included: vllm, sglang, inferencex or guidellm.
    [default: a settled loop]"""
    prompts: Annotated[int | None, flag("--prompts", metavar="N", quantity=COUNT)] = None
    """Requests that the client sends.  [default: the client's]"""
    length_ratio: Annotated[float | None, flag("--length-ratio", metavar="R", quantity=SHARE)] = None
    """The client draws lengths uniformly from this share of the stated ones up to them.  [default: the client's]"""
    curve: Annotated[str | None, flag("--curve", metavar="R,R,...")] = None
    """Relative rates of equal parts of the duration, such as the hours of a day."""

    def keywords(self) -> dict[str, Any]:
        """Return what ``simulate`` takes of the traffic."""
        return {
            **Traffic.keywords(self),
            "concurrency": self.concurrency,
            "client": self.program(),
        }

    def program(self) -> BenchmarkClient | None:
        """Return the benchmark client.

        Raises:
            InputError: something of a client is stated, and no client.

        """
        if self.client is None:
            if self.prompts is not None or self.length_ratio is not None:
                raise InputError("--prompts and --length-ratio are of a benchmark client; name it with --client")
            return None
        from advisor.simulator.benchmark_client import find_client  # brings numpy

        return find_client(self.client, prompts=self.prompts, length_ratio=self.length_ratio)

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
