"""`python -m rwp`, and the program `rwp`."""

import sys


def main() -> None:
    """Run a command; the library alone has none."""
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        sys.stderr.write(
            "error: rwp: expected the packages of the pipeline, got the library alone; "
            "pip install 'robust-weight-perturbation[pipeline]'\n"
        )
        sys.exit(2)
    from rwp.commands.app import main as run

    run()


if __name__ == "__main__":
    main()
