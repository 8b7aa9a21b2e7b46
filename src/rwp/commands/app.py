"""`rwp`: each step of the pipeline as a command."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from rwp.commands import (
    accept,
    check,
    claims,
    compare,
    compare_curve,
    data,
    diagnose,
    evaluate,
    export,
    figure,
    gather,
    landscape,
    losses,
    new,
    plan,
    pseudo_label,
    rates,
    report,
    table,
    track,
    train,
    ui,
    verify,
    watch,
)
from rwp.commands.common import DEFAULT_PARAMS
from rwp.errors import UserError, in_one_line, lacks_memory, passing_cause
from rwp.factories import told_of_own_code

_NO_LOCKS = "flock not supported"  # filelock's words
# Words of errors that say so of a file, whatever kept it from being read.
_DAMAGED = ("truncated", "damaged", "something else")

app = typer.Typer(
    name="rwp",
    help="Robust Weight Perturbation for adversarial training: each step of the pipeline by hand."
    " The whole pipeline: snakemake --cores 2 results/demo/table2.csv",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from rwp import __version__

        print(f"rwp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Options of `rwp` itself."""


app.add_typer(data.app, name="data", help="Fetch data sets and look at them.")
app.add_typer(track.app, name="track", help="MLflow's copy of what trainings logged.")
app.command("pseudo-label")(pseudo_label.pseudo_label)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(diagnose.diagnose)
app.command()(export.export)
app.command()(table.table)
app.command()(claims.claims)
app.command()(landscape.landscape)
app.command()(losses.losses)
app.command()(figure.figure)
app.command()(compare.compare)
app.command("compare-curve")(compare_curve.compare_curve)
app.command()(report.report)
app.command()(gather.gather)
app.command(cls=plan.PlanCommand)(plan.plan)
app.command()(rates.rates)
app.command()(verify.verify)
app.command()(accept.accept)
app.command()(check.check)
app.command()(new.new)
app.command()(watch.watch)
app.command()(ui.ui)


def _set_threads() -> None:
    """One thread unless the environment says how many; torch reads it when it is imported.

    Raises:
        UserError: it says no number, for which the processor's whole number would be taken.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "").strip() or "1"
    # OpenMP's form: a number, or one for each level of nesting.
    if not all(part.strip().isdecimal() and int(part) > 0 for part in threads.split(",")):
        raise UserError(
            f"OMP_NUM_THREADS: expected a number of threads, such as 1, got {threads!r}; correct "
            "it, or leave it unset for 1"
        )
    os.environ["OMP_NUM_THREADS"] = threads


def main() -> None:
    """Run a command; bad input is one line on standard error and exit code 2.

    On a CPU it takes one thread unless OMP_NUM_THREADS says otherwise, as the pipeline's jobs do:
    the bits are the same, and small networks are faster for it.
    """
    # Without locks filelock would go over to marker files, which outlive a process that was killed.
    warnings.filterwarnings("error", _NO_LOCKS, UserWarning)
    _warn_of_another_checkout()
    try:
        _set_threads()
        _refuse_empty_words(sys.argv[1:])
        code = app(standalone_mode=False)  # it would draw a box around what a person mistyped
        _flush()  # here, where a full disk can still be told
    except typer.TyperException as error:
        sys.exit(_mistyped(error))
    except Exception as error:
        line = _advice(error)
        if line is None:
            raise
        sys.stderr.write(f"error: {line}\n")
        _give_up_output()
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _warn_of_another_checkout() -> None:
    """In a checkout with the environment of another, all would be computed by that one's code."""
    here, ours = Path("src/rwp"), Path(__file__).parents[1]
    if (here / "__init__.py").exists() and not here.samefile(ours):
        sys.stderr.write(
            f"warning: this is the rwp of {ours.parents[1]}, not that of this folder; run `make "
            "setup` here, or export PYTHONPATH=$PWD/src\n"
        )


def _flush() -> None:
    if sys.stdout is not None:  # closed by whoever called
        sys.stdout.flush()


def _give_up_output() -> None:
    """What cannot be written now cannot be later, when Python tries again and shows a traceback."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_empty_words(words: list[str]) -> None:
    """A path of no letters would be the working folder; no option of ours means nothing."""
    for before, word in zip(["rwp", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            raise UserError(
                f"{option or before}: expected a value after it, got an empty one; leave it out, or"
                " set the shell's variable that should give it"
            )


def _mistyped(error: typer.TyperException) -> int:
    """Say in one line what is wrong with a command's words; its exit code."""
    text = error.format_message().replace("Value error, ", "").rstrip(".")
    if "\n" in text or not text:  # the help of a command that was given no words
        sys.stderr.write(text)
        return error.exit_code
    context = getattr(error, "ctx", None)
    where = f"; see `{context.command_path} --help`" if context else ""
    sys.stderr.write(f"error: {text}{where}\n")
    return error.exit_code


def _named(text: str) -> str:
    """A message about a key of the settings, under the name of the file that has the key."""
    from rwp.studies import in_its_file

    return in_its_file(text, DEFAULT_PARAMS)


def _unread(error: UserError, text: str) -> str:
    """A file that could not be read just now is not called damaged: nobody should delete it."""
    cause = passing_cause(error.__cause__)
    if cause is None or not any(word in text for word in _DAMAGED):
        return text
    place = text.partition(": expected ")[0]
    reason = cause.strerror if isinstance(cause, OSError) else in_one_line(cause)
    return (
        f"{place}: expected a file that can be read, got {reason}; it may be whole, so keep it:"
        " check permissions, disk and memory, and run the same command again"
    )


def _advice(error: Exception) -> str | None:
    """What a person can do about an error; none: it is ours to fix, and its traceback helps."""
    text = in_one_line(error, named=False, longest=None)
    if isinstance(error, UserError):
        text = _unread(error, text)
        return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in _named(text))
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename}: expected a file or folder that can be used, got {error.strerror};"
            f" check path, permissions and space"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk: expected space for what is written, got {error.strerror}; free some"
    no_locks = isinstance(error, UserWarning) and text.startswith(_NO_LOCKS)
    if no_locks or (isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.ENOSYS)):
        reason = getattr(error, "strerror", None) or os.strerror(errno.ENOSYS)
        return (
            f"locks: expected a file system whose locks work, got {reason}; mount it with "
            "them (Lustre: flock), or move the project"
        )
    if isinstance(error, ValueError) and ": expected " in text and ", got " in text:
        return text  # `core` knows nothing of us, and says what is wrong with its input in this way
    if lacks_memory(error):
        return f"memory: expected enough for this step, got too little ({text[:200]}); lower sizes"
    return told_of_own_code(error) or None


if __name__ == "__main__":
    main()
