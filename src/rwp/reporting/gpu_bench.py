"""What `make bench-gpu` measured, from its archive: rates for `rwp plan`, tables for the docs."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.files import write_text
from rwp.reporting.rates import AUTOATTACK_PASSES, Rate, is_amount, place_of

FORMAT = "rwp.gpu-bench/1"
BEGIN, END = "<!-- bench-gpu: {device} -->", "<!-- end of bench-gpu -->"
_FIELDS = (
    "device",
    "network",
    "image_size",
    "forward_seconds",
    "backward_seconds",
    "autoattack_seconds",
    "command",
    "attack_backward_seconds",
)
_PAIRS = ("step", "epoch", "autoattack")

Content = Mapping[str, Any]


def read_archive(path: Path) -> Content:
    """The measurements in an archive.

    Raises:
        UserError: it is none, or that of a rehearsal, whose numbers mean nothing.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: expected an archive that `make bench-gpu` wrote, found no file; "
            "check the path"
        )
    try:
        with tarfile.open(path, "r:gz") as tar:
            stream = tar.extractfile("bench.json")
            content = json.load(stream) if stream is not None else None
    except Exception as error:  # a damaged archive may raise anything
        raise UserError(
            f"{path}: expected an archive that `make bench-gpu` wrote, got {error}; check the path"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise UserError(
            f"{path}: expected the format {FORMAT}, got {found!r}; measure with this version"
        )
    kinds = {"tiny": bool, "device": str, "machine": str, "commit": str, "units": dict}
    for name, kind in (kinds | {"failed": dict}).items():
        if not isinstance(content.get(name), kind):
            raise UserError(
                f"{path}: expected {name} as `make bench-gpu` writes it, got "
                f"{content.get(name)!r}; measure again"
            )
    if content["tiny"]:
        raise UserError(
            f"{path}: expected measurements, got a rehearsal (--tiny), whose numbers mean nothing; "
            "run `make bench-gpu` on a GPU"
        )
    for name in _numbers_amiss(content):
        raise UserError(
            f"{path}: expected times above 0 of networks by name, got {name}; measure again"
        )
    return content


def _numbers_amiss(content: Content) -> Iterator[str]:
    """Where what rates and ratios rest on is no time."""
    places: list[tuple[Any, Any]] = []
    for name, numbers in _units(content, "rates"):
        place = (numbers.get("network"), numbers.get("image_size"))
        if not all(isinstance(word, str) for word in place) or place in places:
            yield f"another network and image size {place} under rates {name}"
        places.append(place)
        for measure in ("forward_seconds", "backward_seconds", "attack_backward_seconds"):
            if not is_amount(numbers.get(measure)):
                yield f"{measure} {numbers.get(measure)!r} under rates {name}"
    for kind in _PAIRS:
        for name, numbers in _units(content, kind):
            for measure in ("ours_s", "reference_s"):
                if not is_amount(numbers.get(measure)):
                    yield f"{measure} {numbers.get(measure)!r} under {kind} {name}"


def _units(content: Content, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, numbers in content["units"].items():
        first, _, rest = name.partition(" ")
        if first == kind:
            yield rest, numbers


def rate_rows(content: Content) -> list[dict[str, str]]:
    """A line of rates.csv for each network whose passes were timed."""
    rows = []
    for _, numbers in _units(content, "rates"):
        forward, weights = numbers["forward_seconds"], numbers["backward_seconds"]
        rate = Rate(forward, numbers["attack_backward_seconds"], weights, None, "")
        survivor = rate.seconds(AUTOATTACK_PASSES)
        values = (
            content["device"],
            numbers["network"],
            numbers["image_size"],
            f"{numbers['forward_seconds']:.4g}",
            f"{numbers['backward_seconds']:.4g}",
            "" if survivor is None else f"{survivor:.4g}",
            f"make bench-gpu (batch {numbers['batch']}, fp32; AutoAttack: its passes)",
            f"{numbers['attack_backward_seconds']:.4g}",
        )
        rows.append(dict(zip(_FIELDS, values, strict=True)))
    return rows


def merge_rates(path: Path, rows: list[dict[str, str]]) -> None:
    """Put the lines into a file of rates, in place of those of the same place."""
    fresh = {place_of(row) for row in rows}
    old: list[dict[str, str]] = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as stream:
            table = csv.DictReader(stream)
            old, columns = list(table), tuple(table.fieldnames or ())
        if columns != _FIELDS:
            raise UserError(
                f"{path}: expected a file of rates with the columns {','.join(_FIELDS)}, got "
                f"{','.join(columns)[:80] or 'none'}; name another with --output"
            )
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([row for row in old if place_of(row) not in fresh] + rows)
    write_text(path, text.getvalue())


def document(content: Content) -> str:
    """The measurements as a page shows them."""
    lines = [f"### {content['device']}", "", f"{content['machine']}; commit {content['commit']}."]
    pairs = [
        (f"{kind} {name}", numbers) for kind in _PAIRS for name, numbers in _units(content, kind)
    ]
    lines += ["", "| name | ours [s] | reference [s] | ratio | GiB, ours / reference | other |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [_pair_line(name, numbers) for name, numbers in pairs]
    for name, numbers in _units(content, "profile"):
        longest = ", ".join(f"`{key}` {share:.0%}" for key, share in numbers["longest"].items())
        lines += [
            "",
            f"Profile of a step of AT-RWP, {name}: {1000 * numbers['step_s']:.1f} ms, the device "
            f"busy for {numbers['busy_share']:.0%}, {numbers['share_of_matmul_rate']:.0%} of its "
            f"rate at matrix products, {numbers['launches']} launches. Longest: {longest}.",
        ]
    for name, numbers in _units(content, "scaling"):
        sizes = (
            f"{found['images_per_second']:.0f} at {size}"
            for size, found in numbers.items()
            if isinstance(found, dict)
        )
        lines += ["", f"Images a second of AT-RWP over the batch, {name}: {', '.join(sizes)}."]
    lines += _suite_lines(content)
    failed = [f"- `{name}`: {text}" for name, text in content["failed"].items()]
    lines += ["", "Failed:", "", *failed] if failed else []
    return "\n".join(lines)


def _pair_line(name: str, numbers: dict[str, Any]) -> str:
    ratio = numbers.get("ratio", numbers["reference_s"] / numbers["ours_s"])
    memory = [numbers.get(f"peak_gib_{side}") for side in ("ours", "reference")]
    shown = " / ".join("-" if value is None else f"{value:.2f}" for value in memory)
    other = ", ".join(
        f"{key.replace('_', ' ')} {value:.3g}"
        for key in ("share_of_matmul_rate", "flags_that_differ", "robust", "images")
        if isinstance(value := numbers.get(key), int | float)
    )
    seconds = f"{numbers['ours_s']:.4g} | {numbers['reference_s']:.4g}"
    return f"| `{name}` | {seconds} | {ratio:.2f}x | {shown} | {other} |"


def _suite_lines(content: Content) -> Iterator[str]:
    for name, numbers in _units(content, "train"):
        shares = ", ".join(
            f"{key.replace('_', ' ')} {100 * value:.1f} %"
            for key, value in numbers.items()
            if key.endswith("accuracy")
        )
        yield ""
        took = f"{numbers['epochs']} epochs in {numbers['training_s']:.0f} s"
        yield f"Trained {name}: {took}; {shares}."
    for name, numbers in _units(content, "attack"):
        shares = ", ".join(
            f"{attack} {100 * found['robust'] / found['of']:.1f} % of {found['of']}"
            f" ({found['seconds']:.0f} s)"
            for attack, found in numbers.items()
            if isinstance(found, dict)
        )
        yield ""
        yield f"Attacked {name}: {shares}."


def merge_document(path: Path, content: Content) -> None:
    """Put the tables into a page, in place of those of the same device.

    Raises:
        UserError: the page has a beginning of such a part without its end.
    """
    begin = BEGIN.format(device=content["device"])
    part = f"{begin}\n{document(content)}\n{END}\n"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, found, rest = page.partition(begin)
    if found:
        _, end, after = rest.partition(END)
        if not end:
            raise UserError(
                f"{path}: expected {END} after {begin}, got none; put the line back or remove both"
            )
        write_text(path, before + part + after.removeprefix("\n"))
    else:
        write_text(path, f"{page.rstrip()}\n\n{part}".lstrip())
