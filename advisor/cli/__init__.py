"""The command ``advisor``.

Nothing heavy is imported here: ``advisor --help`` is instant, and each command brings what it needs.
"""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from advisor.cli.commands import catalog_command
from advisor.cli.commands.app_command import app as serve_app
from advisor.cli.commands.estimate_command import estimate
from advisor.cli.commands.explore_command import explore
from advisor.cli.commands.export_command import export
from advisor.cli.commands.fit_command import fit
from advisor.cli.commands.fleet_command import fleet
from advisor.cli.commands.import_command import import_
from advisor.cli.commands.plan_command import plan
from advisor.cli.commands.probe_command import probe
from advisor.cli.commands.recommend_command import recommend
from advisor.cli.commands.serve_command import mcp, serve
from advisor.cli.commands.simulate_command import simulate
from advisor.cli.commands.train_command import train
from advisor.cli.commands.tune_command import tune
from advisor.cli.commands.validate_command import validate
from advisor.cli.commands.which_command import which
from advisor.cli.groups import flattened
from advisor.cli.program import Command, Program

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


app = typer.Typer(
    name="advisor",
    cls=Program,
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


for _command in (
    *(recommend, which, estimate, simulate, plan, fleet, train, explore, probe, tune, fit, validate, export),
    *(serve_app, serve, mcp),
):
    app.command(cls=Command)(flattened(_command))
app.command("import", cls=Command)(flattened(import_))
app.add_typer(catalog_command.app, name="catalog")


def main() -> None:
    """Run the command line, and exit."""
    app()
