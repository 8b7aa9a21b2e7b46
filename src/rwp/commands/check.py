"""`rwp check`: a network, objective, mask, perturbation or attack of one's own on a tiny batch."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rwp.commands.common import Resolved
from rwp.errors import UserError


def check(
    factory: Annotated[
        str | None, typer.Argument(help="package.module:factory, as in params.yaml.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="Of the factory, as NAME=VALUE; may be repeated."),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option("--as", help="network, objective, mask, perturbation or attack."),
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the trial.")] = 3,
    channels: Annotated[int, typer.Option(min=1, help="Channels of its images.")] = 3,
    size: Annotated[int, typer.Option(min=1, help="Height and width of its images.")] = 16,
    norm: Annotated[str, typer.Option(help="linf or l2, for what attacks.")] = "linf",
    epsilon: Annotated[str, typer.Option(help="Radius on [0, 1] pixels.")] = "8/255",
    resolved: Resolved = None,
) -> None:
    """Build what a factory of your own gives and try it on four random images, in seconds.

    What does not keep to its protocol (docs/own-work.md) is said in one line. The same is done
    before a plan runs that needs it.
    """
    from rwp.evaluation.trial import ROLES, Shape, try_factory

    if resolved is not None:
        import json

        for trial in json.loads(resolved):
            known = trial["shape"] | {
                "image_size": tuple(trial["shape"].get("image_size", (32, 32)))
            }
            more = ("norm", "epsilon", "criterion")
            ball = {name: trial[name] for name in more if name in trial}
            named = trial["text"], trial["options"], trial["role"]
            for line in try_factory(*named, Shape(**known), **ball):
                if line.startswith("warning: "):
                    print(f"{trial['text']}: {line}", file=sys.stderr)
        return
    if factory is None:
        raise UserError("expected package.module:factory, got nothing; name one")
    if role is not None and role not in ROLES:
        raise UserError(f"--as: expected {', '.join(ROLES)}, got {role!r}; check the spelling")
    _check_ball(norm, epsilon)
    shape = Shape(classes, channels, (size, size))
    options: dict[str, object] = {}
    for name, value in map(_option, option or ()):
        if name in options:
            raise UserError(f"--option: expected {name} once, got it twice; leave one out")
        options[name] = value
    for line in try_factory(factory, options, role, shape, norm=norm, epsilon=epsilon):  # type: ignore[arg-type]
        print(line)


def _check_ball(norm: str, epsilon: str) -> None:
    """Refuse a norm or radius here, before it is told as the factory's fault."""
    from rwp.core.threat import check_length
    from rwp.spec import radius_value

    if norm not in ("linf", "l2"):
        raise UserError(f"--norm: expected linf or l2, got {norm!r}; check the spelling")
    try:
        radius = radius_value(epsilon)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"--epsilon: {error}; write it so") from error
    try:
        check_length("--epsilon", radius, norm=norm)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(str(error)) from error


def _option(text: str) -> tuple[str, object]:
    """A name and its value, read as in params.yaml."""
    from rwp.strict_yaml import parse_yaml

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise UserError(f"--option: expected NAME=VALUE, got {text!r}; e.g. width=32")
    return name, parse_yaml(value, where=f"--option {name}")
