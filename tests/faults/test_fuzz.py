"""Anything at all in settings, records and checkpoints: a clear line or a valid run."""

from __future__ import annotations

import copy
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from rwp.commands.app import main
from rwp.evaluation.spec import EvaluationSpec
from rwp.pipeline.dvc import copy_linked_files
from rwp.pipeline.load import load_params
from rwp.training.spec import PseudoLabelSpec, TrainSpec
from tests.faults.ledger import attempt
from tests.faults.processes import Undisturbed
from tests.faults.sample import share

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 40),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "x", "8/255", "1/0", "1e999", "../..", "a;b", "${HOME}", "default", "at"]),
    st.text(max_size=20),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def fuzz(examples: int) -> Callable[..., Any]:
    return settings(
        max_examples=share(examples),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # a training per step of shrinking is too slow
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def inside(undisturbed: Undisturbed) -> Iterator[Path]:
    """The finished project as the current folder."""
    before = Path.cwd()
    os.chdir(undisturbed.project.folder)
    yield undisturbed.project.folder
    os.chdir(before)


def command(*words: str) -> tuple[int, str, str]:
    """Run a command of ours in this process, as `rwp` would."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["rwp", *words]
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as left:
        code = left.code
    finally:
        sys.argv = before
        torch.set_flush_denormal(False)  # hypothesis draws subnormal numbers
    return code if isinstance(code, int) else 0, out.getvalue(), err.getvalue()


def assert_clear(code: int, err: str) -> None:
    """Fine, stale, or refused in one line."""
    assert code in (0, 1, 2), err
    assert "Traceback" not in err
    if code == 2:
        lines = [line for line in err.strip().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, err
        assert len(lines[0]) < 1000
        assert "expected" in lines[0], lines[0]


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value of a tree."""
    yield path
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def changed(tree: Any, path: tuple[Any, ...], action: str, value: Any) -> Any:
    """The tree with a value replaced, removed, or with one beside it."""
    found = copy.deepcopy(tree)
    if not path:
        return value
    parent = found
    for key in path[:-1]:
        parent = parent[key]
    if action == "replace":
        parent[path[-1]] = value
    elif action == "remove":
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[value if isinstance(value, str) else "more"] = parent[path[-1]]
    else:
        parent.append(value)
    return found


ACTIONS = st.sampled_from(["replace", "replace", "remove", "add"])


def test_any_settings(inside: Path, brief: dict[str, Any]) -> None:
    at = list(places(brief))

    @fuzz(400)
    @given(place=st.sampled_from(at), action=ACTIONS, value=VALUES)
    def check(place: tuple[Any, ...], action: str, value: Any) -> None:
        with attempt("fuzz: a value of params.yaml replaced, removed or added"):
            text = yaml.safe_dump(changed(brief, place, action, value), allow_unicode=True)
            Path("fuzzed.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
            code, _, err = command("plan", "--params", "fuzzed.yaml")
            assert_clear(code, err)

    check()


def test_any_bytes_as_settings(inside: Path) -> None:
    whole = Path("params.yaml").read_bytes()

    @fuzz(300)
    @given(start=st.integers(0, len(whole)), length=st.integers(0, 400), put=st.binary(max_size=12))
    def check(start: int, length: int, put: bytes) -> None:
        with attempt("fuzz: bytes of params.yaml cut out or put in"):
            Path("fuzzed.yaml").write_bytes(whole[:start] + put + whole[start + length :])
            assert_clear(*command("verify", "--params", "fuzzed.yaml")[::2])

    check()


def slices(undisturbed: Undisturbed) -> dict[str, dict[str, Any]]:
    from rwp.pipeline.resolve_evaluation import evaluation_spec

    params = load_params(undisturbed.project.folder / "params.yaml")
    training = undisturbed.spec("rst-rwp")
    assert training.unlabeled is not None
    labeling = training.unlabeled.labeling
    cheap = ("natural", "fgsm")
    evaluation = evaluation_spec(params, undisturbed.spec("at").key, attacks=cheap)
    train = training.document()
    train["optimization"] |= {"epochs": 1, "batch_size": 128}  # half a second each
    train["unlabeled"]["epoch_size"] = 256
    return {
        "train": train,
        "pseudo-label": labeling.document(),
        "evaluate": evaluation.document(),
    }


# A valid run may take as long as it was asked to; these decide how long.
SIZES = {"epochs", "width", "blocks", "num_steps", "num_weight_steps", "epoch_size", "num_restarts"}
SIZES |= {"crop_padding", "batch_size", "depth", "widen_factor"}


def small_enough(place: tuple[Any, ...], value: Any) -> bool:
    """Whether a changed size still makes a run of seconds."""
    numbers = [value] if not isinstance(value, list) else value
    is_size = any(key in SIZES for key in place)
    return not is_size or all(not isinstance(n, int | float) or abs(n) < 12 for n in numbers)


@pytest.mark.parametrize("name", ["train", "pseudo-label", "evaluate"])
def test_any_resolved_slice(name: str, inside: Path, undisturbed: Undisturbed) -> None:
    """What a step is handed as one line of JSON; nothing lands outside the project."""
    whole = slices(undisturbed)[name]
    at = list(places(whole))
    around = {path.name for path in inside.parent.iterdir()}

    @fuzz(150 if name == "train" else 100)
    @given(place=st.sampled_from(at), action=ACTIONS, value=VALUES)
    def check(place: tuple[Any, ...], action: str, value: Any) -> None:
        if not small_enough(place, value):
            return
        with attempt(f"fuzz: {name} --resolved"):
            text = json.dumps(changed(whole, place, action, value))
            more = ("--no-tracking",) if name == "train" else ()
            words = (name, "--resolved", text, "--fingerprint", "0123456789abcdef", *more)
            code, _, err = command(*words)
            assert_clear(code, err)

    check()
    assert {path.name for path in inside.parent.iterdir()} == around
    copy_linked_files(inside / "results")


@pytest.mark.parametrize(
    "words",
    [
        ("verify",),
        ("plan",),
        ("table", "table1"),
        ("table", "table2"),
        ("track", "sync", "one"),
        ("compare-curve", "one"),
    ],
    ids=" ".join,
)
def test_any_record(words: tuple[str, ...], inside: Path, undisturbed: Undisturbed) -> None:
    """run.json and history.jsonl with anything in them."""
    run = Path(undisturbed.spec("at").key.directory)
    Path("one").unlink(missing_ok=True)
    Path("one").symlink_to(run)
    record, history = run / "run.json", run / "history.jsonl"
    sound = {path: path.read_bytes() for path in (record, history)}
    content = json.loads(sound[record])
    lines = sound[history].decode().splitlines()
    at = list(places(content))

    @fuzz(60)
    @given(
        place=st.sampled_from(at), action=ACTIONS, value=VALUES, line=VALUES, which=st.booleans()
    )
    def check(place: tuple[Any, ...], action: str, value: Any, line: Any, which: bool) -> None:
        with attempt("fuzz: run.json or history.jsonl"):
            if which:
                record.write_text(json.dumps(changed(content, place, action, value)))
            else:
                history.write_text("\n".join([lines[0], json.dumps(line), *lines[2:]]))
            code, _, err = command(*words)
            assert_clear(code, err)

    try:
        check()
    finally:
        for path, data in sound.items():
            path.write_bytes(data)
        Path("one").unlink()


def test_any_evaluation_record(inside: Path, undisturbed: Undisturbed) -> None:
    checkpoint = str(undisturbed.spec("at").key.directory / "best.pt")
    assert command("evaluate", "--checkpoint", checkpoint, "--attack", "fgsm")[0] == 0
    path = Path(undisturbed.spec("at").key.directory / "evaluation/best/fgsm.json")
    content = json.loads(path.read_text())
    at = list(places(content))

    @fuzz(150)
    @given(place=st.sampled_from(at), action=ACTIONS, value=VALUES)
    def check(place: tuple[Any, ...], action: str, value: Any) -> None:
        with attempt("fuzz: an evaluation record"):
            path.write_text(json.dumps(changed(content, place, action, value)))
            assert_clear(*command("table", "table2", "--show")[::2])

    check()
    with attempt("fuzz: an evaluation record"):  # a damaged record is made again
        assert command("evaluate", "--checkpoint", checkpoint, "--attack", "fgsm")[0] == 0
    path.unlink()


def test_any_checkpoint(inside: Path, undisturbed: Undisturbed) -> None:
    """Bytes replaced, and contents replaced."""
    path = Path(undisturbed.spec("at").key.directory / "best.pt")
    whole = path.read_bytes()
    content = torch.load(path, weights_only=True)
    description = {key: value for key, value in content.items() if key != "weights"}
    at = list(places(description))
    words = ("evaluate", "--checkpoint", str(path), "--attack", "fgsm")

    @fuzz(120)
    @given(start=st.integers(0, len(whole)), put=st.binary(min_size=1, max_size=40))
    def bytes_of(start: int, put: bytes) -> None:
        with attempt("fuzz: bytes of a checkpoint"):
            path.write_bytes(whole[:start] + put + whole[start + len(put) :])
            assert_clear(*command(*words)[::2])

    @fuzz(120)
    @given(place=st.sampled_from(at), action=ACTIONS, value=VALUES)
    def description_of(place: tuple[Any, ...], action: str, value: Any) -> None:
        if not small_enough(place, value):
            return
        with attempt("fuzz: a checkpoint's description"):
            found = changed(description, place, action, value)
            if isinstance(found, dict):
                found["weights"] = content["weights"]
            torch.save(found, path)
            assert_clear(*command(*words)[::2])

    try:
        bytes_of()
        description_of()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("spec", [TrainSpec, PseudoLabelSpec, EvaluationSpec])
def test_any_text_as_a_slice(spec: Any) -> None:
    from rwp.errors import UserError

    @fuzz(200)
    @given(text=st.one_of(st.text(), VALUES.map(json.dumps)))
    def check(text: str) -> None:
        with attempt("fuzz: any text as --resolved"), pytest.raises(UserError):
            spec.parse(text, where="--resolved")

    check()
