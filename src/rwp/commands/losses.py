"""`rwp losses`: how training images move between loss groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def losses(
    run: Annotated[Path, typer.Argument(help="A run's folder: results/runs/.../seed0.")],
    before: Annotated[int, typer.Option(help="Epoch, from 0, whose loss groups are the rows.")] = 0,
    after: Annotated[
        int | None, typer.Option(help="Epoch whose loss groups are the columns; default: the last.")
    ] = None,
    edges: Annotated[
        str, typer.Option(help="Edges of the groups, in nats.")
    ] = "0,0.5,1,1.5,2,2.5,3",
    output: Annotated[Path | None, typer.Option(help="Write the table as CSV, too.")] = None,
) -> None:
    """Print where the images of each loss group are some epochs later, and who is learned when.

    The run needs losses.npz: write keep_losses: true in its suite.
    """
    from rich.console import Console
    from rich.table import Table

    from rwp.commands.common import refuse_other_kind
    from rwp.errors import UserError
    from rwp.reporting.movements import losses_of, movement_table
    from rwp.reporting.tables import write_frame

    refuse_other_kind(output, ".csv")
    try:
        numbers = [float(part) for part in edges.split(",")]
    except ValueError as error:
        raise UserError(
            f"--edges: expected losses in nats such as 0,0.5,1, got {edges!r}; write numbers"
        ) from error
    arrays = losses_of(run)
    last = len(arrays["adversarial_loss"]) - 1
    until = last if after is None else after
    frame = movement_table(arrays, edges=numbers, before=before, after=until)
    shown = Table(
        title=f"{run}: loss groups of epoch {before}, and the percentage of their images in those"
        f" of epoch {until}"
    )
    for column in frame.columns:
        shown.add_column(column.replace("_", " "), justify="right", no_wrap=True)
    for _, row in frame.iterrows():
        cells = [f"{v:.1f}" if isinstance(v, float) else str(v) for v in row]
        shown.add_row(*("" if cell == "nan" else cell for cell in cells))
    console = Console()
    needed = console.measure(shown, options=console.options.update(max_width=10_000)).maximum
    Console(width=max(console.width, needed)).print(shown)  # a terminal breaks lines, not numbers
    if output is not None:
        write_frame(output, frame)
        print(output)
