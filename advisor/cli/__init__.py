"""The command ``advisor``.

Nothing heavy is imported here: ``advisor --help`` is instant, and each command brings what it needs.
"""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer

from advisor.cli.lazy_commands import LazyCommands
from advisor.cli.program import Program

COMMANDS = {
    "recommend": "recommend_command.recommend",
    "which": "which_command.which",
    "estimate": "estimate_command.estimate",
    "simulate": "simulate_command.simulate",
    "plan": "plan_command.plan",
    "fleet": "fleet_command.fleet",
    "autoscale": "autoscale_command.autoscale",
    "observe": "observe_command.observe",
    "train": "train_command.train",
    "explore": "explore_command.explore",
    "probe": "probe_command.probe",
    "tune": "tune_command.tune",
    "fit": "fit_command.fit",
    "validate": "validate_command.validate",
    "export": "export_command.export",
    "app": "app_command.app",
    "serve": "serve_command.serve",
    "mcp": "serve_command.mcp",
    "import": "import_command.import_",
    "catalog": "catalog_command.overview",
}
"""Where each command's function is, in the order of the help."""

EPILOG = """\b
Exit codes: 0 done; 1 nothing feasible or a limit missed (the answer says
what to relax); 2 bad usage or input (one line on stderr); 70 a fault in
advisor itself. Your own models, GPUs, prices and runs are read from
$ADVISOR_HOME. NO_COLOR is honoured."""


def _show_version(asked: bool | None) -> None:
    if asked:
        import advisor  # its version is looked up only here
        from advisor.cli.output import write

        write(f"advisor {advisor.__version__}\n")
        raise typer.Exit


class _Advisor(Program):
    """The program, whose commands are imported when they are used."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = LazyCommands(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  Click's signature
        """Return their names without importing them."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  Click's signature
        """Write the commands, each with the first sentence of its help."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.commands.summary(name).get_short_help_str(limit)) for name in self.commands]
            )


app = typer.Typer(
    name="advisor",
    cls=_Advisor,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": shutil.get_terminal_size().columns},
)


@app.callback()
def advisor(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback tells it
        bool | None,
        typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001  see Program.main
) -> None:
    """How to serve an LLM on the GPUs you have, with error bars.

    \b
    advisor recommend --model llama-13b --gpus 4xA100
    """  # noqa: D301  Click's mark for lines that stay as they are
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> None:
    """Run the command line, and exit."""
    app()
