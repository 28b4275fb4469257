"""The application that commands are added to, and how it ends when something is wrong."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core


class _OneLineErrors(typer.core.TyperGroup):
    """Reports what a user can mend in one line; a traceback is left to what should not happen."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, ImportError, OSError) as error:
            typer.echo(f"qindex: error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_OneLineErrors,
    help="Quantized embeddings and retrieval: encode, quantize, index, search.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich takes a tenth of a second
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from qindex import __version__

        print(f"qindex {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
