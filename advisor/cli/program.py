"""How the program behaves as a whole: exit codes, errors of one line, help by sections.

Written against what Typer 0.20 (on Click) and later versions (with a Click of their own) have in common.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BAD_INPUT = 2
CRASH = 70
"""EX_SOFTWARE of sysexits.h: 1 and 2 have meanings of their own here."""
INTERRUPTED = 130
"""128 + SIGINT, what a shell reports; likewise below."""
MOST = 1000
"""Letters of a message: what the user typed may be long."""

POOL_OPTIONS = ("--prefill-gpus", "--prefill-replicas", "--prefill-tp")
DISAGGREGATE = ("--disaggregate", "--disaggregation-mode", "--pd-disaggregation")
"""What switches pools on in a search, and what SGLang and its router call that."""
ELSEWHERE = (
    {
        (command, option): text
        for command in ("recommend", "export")
        for option, text in {
            "--rate": "ask advisor plan --rate ... for a fleet, or state --concurrency",
            "--percentile": "its limits are on means; advisor plan and simulate take percentiles",
            "--classes": "a steady state has one kind of request; ask advisor plan --classes ... for the GPUs that keep every class's limits",
            "--scheduling-policy": "a steady state has no queue; advisor plan and simulate take it with --classes",
        }.items()
    }
    | {
        (command, option): text
        for commands, text in (
            (
                ("which",),
                "it compares models without adapters: ask advisor recommend, simulate or plan with --lora-adapters, or leave them out",
            ),
            (
                ("simulate", "plan", "export", "recommend", "estimate"),
                "state how many adapters requests are of with --lora-adapters",
            ),
        )
        for command in commands
        for option in ("--lora", "--loras", "--enable-lora", "--max-loras", "--max-lora-rank", "--lora-modules")
    }
    | {
        (command, option): text
        for commands, options, text in (
            (
                ("plan",),
                POOL_OPTIONS,
                "it sizes both pools itself: add --disaggregate and name their GPUs, such as --disaggregate --gpus H200,H100",
            ),
            (
                ("simulate",),
                DISAGGREGATE,
                "state the pool with --prefill-replicas N, and --prefill-gpus 4xH100 of another kind",
            ),
            (
                ("recommend", "estimate", "which"),
                (*POOL_OPTIONS, *DISAGGREGATE),
                "pools are modelled under traffic: ask advisor plan --disaggregate, or simulate with --prefill-replicas",
            ),
        )
        for command in commands
        for option in options
    }
)
"""What to do where an option of another command is missed most."""

EXAMPLES = {
    "--model": "--model llama-13b",
    "--gpus": "--gpus 4xA100",
    "--batch": "--batch 32 (sequences at once per replica)",
    "--prometheus": "--prometheus http://prometheus:9090 (the server that scrapes the engines)",
    "train --batch": "--batch 256 (sequences of a step, over all replicas)",
}
"""What a missing option may be, of one command alone where it is named."""


def one_line(text: str) -> str:
    """Return ``text`` as one printable line: what users typed comes back in messages, control characters and all."""
    joined = " ".join(text.split())
    clean = "".join(letter if letter.isprintable() else "?" for letter in joined)
    return clean if len(clean) <= MOST else clean[: MOST - 3] + "..."


class Program(TyperGroup):
    """The command group: every way out of the program has its exit code and at most one line on stderr."""

    def main(
        self,
        args: Any = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit; ``--debug`` anywhere shows the traceback of what went wrong."""
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments
        given = [argument for argument in arguments if argument != "--debug"]

        def run() -> Any:
            return super(Program, self).main(
                args=given,
                prog_name=prog_name,
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        if not standalone_mode:
            return run()
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return sys.exit(exit_code(run, debug=debug))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that ``args`` start with."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            from catalog.names import closest, squash  # only for this message

            known = self.list_commands(ctx)
            near = closest(name, {squash(command_name): command_name for command_name in known}, count=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(f'unknown command "{name}"; {hint}commands: {", ".join(known)}')
        if name == "recommend" and TRAIN in args:  # the search for a layout is that of train
            args = ["train", *(argument for argument in args[1:] if argument != TRAIN)]
        return super().resolve_command(ctx, args)


TRAIN = "--train"
"""What makes ``recommend`` the search of ``train``: the fastest layout of training."""


class Command(TyperCommand):
    """A command whose many options come in sections."""

    def invoke(self, ctx: Any) -> Any:
        """Run it, with what libraries log shown on a terminal only."""
        import logging  # not for --help

        if not logging.getLogger().handlers:
            logging.basicConfig(
                format="advisor: warning: %(message)s",
                handlers=[logging.StreamHandler() if _hears() else logging.NullHandler()],
            )
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under the heading that each one names as its help panel."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = getattr(parameter, "rich_help_panel", None)
                sections.setdefault(heading or "Options", []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def exit_code(run: Callable[[], Any], *, debug: bool = False) -> int:
    """Return the program's exit code after ``run``; an error is printed on stderr in one line, and in full if ``debug``."""
    try:
        code = int(run() or 0)
        _flush()
    except SystemExit as ending:
        # Typer answers a closed pipe with exit(1), which here would mean that nothing is feasible.
        return _unread() if isinstance(ending.__context__, BrokenPipeError) else _number(ending.code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _unread()
    except Exception as error:  # noqa: BLE001  a user is never shown a traceback unasked
        return _failure(error, debug=debug)
    return code


def _failure(error: Exception, *, debug: bool) -> int:
    message, code = message_of(error)
    if debug:
        import traceback  # seldom needed

        traceback.print_exception(error)
    _say(message)
    if isinstance(error, OSError):
        discard_output()
    return code


def message_of(error: Exception) -> tuple[str, int]:
    """Return what to tell the user about an error, in one line, and the exit code."""
    if isinstance(error, InputError):
        return one_line(str(error)), BAD_INPUT
    if hasattr(error, "format_message"):  # Click's, whichever module it comes from
        return one_line(_usage_message(error)), BAD_INPUT
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return one_line(f"{what}{error.strerror or error}"), BAD_INPUT
    kind = type(error).__name__
    return one_line(
        f"internal error, {kind}: {error}; please report it with what --debug shows (run the same command with --debug)"
    ), CRASH


def _usage_message(error: Any) -> str:
    """Write Click's message, said the way ours are."""
    kind = type(error).__name__
    ctx = getattr(error, "ctx", None)
    if kind == "NoSuchOption":
        return _unknown_option(error.option_name, ctx)
    parameter = getattr(error, "param", None)
    if kind == "MissingParameter" and parameter is not None:
        spelled = parameter.opts[0]
        if parameter.param_type_name == "argument":
            return f"missing {parameter.human_readable_name if hasattr(parameter, 'human_readable_name') else spelled}"
        own = f"{ctx.info_name} {spelled}" if ctx is not None else spelled
        return f"missing {spelled}; for example: {EXAMPLES.get(own, EXAMPLES.get(spelled, spelled + ' ...'))}"
    text: str = error.format_message()
    if ctx is not None and parameter is not None and _from_config(ctx, parameter.name):
        text += f" (in {ctx.meta['advisor.config']})"
    return text[:1].lower() + text[1:]


def _from_config(ctx: Any, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return "advisor.config" in ctx.meta and getattr(source, "name", "") == "DEFAULT_MAP"


def _unknown_option(name: str, ctx: Any) -> str:
    from catalog.names import suggestion  # only for this message

    if ctx is not None and (ctx.info_name, name) in ELSEWHERE:
        return f"{ctx.info_name} takes no {name}; {ELSEWHERE[ctx.info_name, name]}"
    own = list(_options(ctx.command, ctx)) if ctx is not None else []
    elsewhere = []
    if ctx is not None and ctx.parent is not None:
        siblings = getattr(ctx.parent.command, "commands", {})
        elsewhere = [command_name for command_name, command in siblings.items() if name in _options(command, ctx)]
    if elsewhere:
        near = suggestion(name, own)
        *others, last = elsewhere
        commands = f"{', '.join(others)} and {last}" if others else last
        text = f"{ctx.command_path} has no {name}; it is an option of {commands}"
        return f"{text}; {near} here" if near else text
    near = suggestion(name, own, otherwise=f"see {ctx.command_path} --help" if ctx is not None else "")
    return f"no such option {name}; {near}"


def _options(command: Any, ctx: Any) -> Iterator[str]:
    for parameter in command.get_params(ctx):
        if parameter.param_type_name == "option":
            yield from (*parameter.opts, *parameter.secondary_opts)


def _number(code: Any) -> int:
    return code if isinstance(code, int) else 0 if code is None else 1


def _say(message: str) -> None:
    # stderr may be closed or full: then nobody hears it, and the exit code has to do
    try:
        print(f"advisor: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if _hears():
        _say(f"warning: {one_line(str(message))}")


def _hears() -> bool:
    """Return whether somebody reads stderr as it comes."""
    return sys.stderr is not None and sys.stderr.isatty()


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _unread() -> int:
    """Return the exit code where nobody reads on (``| head``): that of an answer, as if the pipe had closed a moment later."""
    discard_output()
    return 0


def discard_output() -> None:
    """Let what is still buffered go nowhere: at exit, Python would flush it, fail again and say so."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
    except (OSError, ValueError, AttributeError):  # stdout is no file, or is closed already
        return


def nothing_feasible(relaxations: Sequence[str], format_: str = "csv", *, why: str = "nothing feasible") -> typer.Exit:
    """Return what to raise where nothing keeps the limits; standard output says it itself where ``format_`` has room for words."""
    if format_ in {"table", "json", "yaml"}:
        return typer.Exit(1)
    return refuse(f"{why}; relax: {'; or '.join(relaxations)}")


def refuse(message: str) -> typer.Exit:
    """Return what to raise where an answer is "nothing feasible" and stdout holds no place for words."""
    _say(one_line(message))
    return typer.Exit(1)
