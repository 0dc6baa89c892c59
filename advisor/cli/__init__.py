"""The command ``advisor``.

Nothing heavy is imported here: ``advisor --help`` is instant, and each command brings what it needs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from advisor.cli import browser, catalogs, fits, imports, judgements, measuring, planning, questions, simulating, tuning
from advisor.cli.program import Command, Program

EPILOG = """\b
Exit codes: 0 done; 1 nothing feasible (the answer says what to relax); 2 bad
usage or input (one line on stderr); 70 a fault in advisor itself. Your own
models, GPUs, prices and runs are read from $ADVISOR_HOME. NO_COLOR is honoured."""


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
)


@app.callback()
def advisor(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback tells it
        bool | None, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
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
    questions.recommend,
    questions.estimate,
    simulating.simulate,
    planning.plan,
    measuring.probe,
    tuning.tune,
    fits.fit,
    judgements.validate,
    questions.export,
    browser.app,
):
    app.command(cls=Command)(_command)
app.command("import", cls=Command)(imports.import_)
app.add_typer(catalogs.app, name="catalog")


def main() -> None:
    """Run the command line, and exit."""
    app()
