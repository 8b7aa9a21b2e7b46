"""`rwp`: each step of the pipeline as a command."""

from __future__ import annotations

import sys

import typer

from rwp.commands import (
    compare_curve,
    data,
    diagnose,
    evaluate,
    export,
    figure,
    landscape,
    plan,
    pseudo_label,
    report,
    table,
    track,
    train,
    verify,
)
from rwp.errors import UserError

app = typer.Typer(
    name="rwp",
    help="Robust Weight Perturbation for adversarial training: each step of the pipeline by hand."
    " The whole pipeline: snakemake --cores 2 results/demo/table2.csv",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data", help="Fetch data sets and look at them.")
app.add_typer(track.app, name="track", help="MLflow's copy of what trainings logged.")
app.command("pseudo-label")(pseudo_label.pseudo_label)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(diagnose.diagnose)
app.command()(export.export)
app.command()(table.table)
app.command()(landscape.landscape)
app.command()(figure.figure)
app.command("compare-curve")(compare_curve.compare_curve)
app.command()(report.report)
app.command()(plan.plan)
app.command()(verify.verify)


def main() -> None:
    """Run a command; bad input is one line on standard error and exit code 2."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(
            f"error: {error.filename}: expected a file or folder that can be used, got"
            f" {error.strerror}; check path, permissions and space\n"
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
