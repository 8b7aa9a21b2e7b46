"""Gathered results: small, of an unfinished suite too, and enough for the report."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from rwp.commands.track import sync
from rwp.errors import UserError
from rwp.files import read_object, sha256_file, write_json
from rwp.pipeline.load import check_params
from rwp.pipeline.own_code import code_may_lack
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import figure_names
from rwp.reporting.claim_verdicts import judge_claims, told, write_claims
from rwp.reporting.claims import read_claims
from rwp.reporting.figures import write_suite_figure
from rwp.reporting.gathered import _check_own_code, gather, opened, settings_of
from rwp.reporting.report import render_report
from rwp.reporting.results import read_attack, read_results, records
from rwp.reporting.runs import of_its_time_below, read_run, read_run_folder, why_run_stale
from tests.commands.test_commands import assert_one_line
from tests.conftest import ROOT, Project as Commands
from tests.data.samples import write_passport

from .conftest import Project
from .settings import shown_content

CLAIM = (
    "won:\n  says: RWP beats AT\n  terms: {at-rwp best autoattack: 1, at best autoattack: -1}\n"
    "  above: 0\n"
)


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Some runs of the demo with their records; pictures are not drawn, as that is tested below."""

    def undrawn(results: Any, name: str) -> None:
        if not any(run.finished for run in results.runs.values()):
            raise UserError("figure: expected trained runs, got none")

    monkeypatch.setattr("rwp.reporting.gathered.write_suite_figure", undrawn)
    project = Project(tmp_path / "few", check_params(shown_content()), "demo")
    for recipe in ("at", "at-awp", "at-rwp"):
        (key,) = project.table2_keys(recipe)
        project.write_run(key, [0.2, 0.4, 0.3])
        for attack in project.params.suites["demo"].evaluation.attacks:
            project.write_record(key, attack, 200)
        project.write_diagnosis(key)
    return project


def page(folder: Path) -> str:
    with opened(folder) as place:
        judged = told(place.params, place.suite, root=place.root)
        return render_report(
            read_results(place.params, place.suite, root=place.root), judged=judged
        )


def gathered(project: Project, target: Path, content: Any = None) -> list[str]:
    settings = content or shown_content()
    return gather(settings, "demo", root=project.root, target=target).left_out


@pytest.mark.slow
def test_the_report_of_a_gathered_folder_is_that_of_the_project(
    filled: Project, tmp_path: Path
) -> None:
    """Claims, tables, figures, origins: all of the page, with nothing but the folder."""
    (filled.root / "claims.yaml").write_text(CLAIM, encoding="utf-8")
    write_suite_figure(filled.results("fig3c"), "fig3c")  # no part of the suite's report
    target = tmp_path / "docs" / "demo"
    assert gathered(filled, target) == []
    base = filled.root / "results" / "demo"
    frame = judge_claims(
        filled.params, "demo", read_claims(filled.root / "claims.yaml"), root=filled.root
    )
    write_claims(frame, "demo", root=filled.root)
    judged = told(filled.params, "demo", root=filled.root)
    expected = render_report(filled.results(), judged=judged)
    names = [f"{name}.csv" for name in ("claims", "table1", "table2", "comparisons", "beyond")]
    names += [f"{figure}.svg" for figure in figure_names(filled.params.suites["demo"])]
    for name in names:
        assert (target / name).exists(), name
        if (base / name).exists():
            assert (target / name).read_bytes() == (base / name).read_bytes(), name
    shutil.rmtree(filled.root)
    assert page(target) == expected
    assert not [path for path in target.rglob("*") if path.suffix in (".pt", ".png", ".npz")]
    assert 'id="claims"' in expected  # one seed tells none, so they do not come first


@pytest.mark.slow
def test_an_unfinished_suite_is_gathered_as_far_as_it_is(few: Project, tmp_path: Path) -> None:
    (few.root / "claims.yaml").write_text(CLAIM, encoding="utf-8")
    for recipe in ("at-awp", "at-rwp"):
        shutil.rmtree(few.root / few.table2_keys(recipe)[0].directory)
    left_out = gathered(few, tmp_path / "part")
    assert left_out[-1].startswith("fig4b: figure: expected trained runs, got none")
    assert str(few.root) not in " ".join(left_out)
    with opened(tmp_path / "part") as place:
        frame = judge_claims(
            place.params, "demo", read_claims(place.root / "claims.yaml"), root=place.root
        )
    (row,) = records(frame)
    assert row["outcome"] == "missing"
    assert "at-rwp/seed0: this training has not finished" in row["reason"]
    assert "this training has not finished" in page(tmp_path / "part")
    frame = pd.read_csv(tmp_path / "part" / "table1.csv")
    assert frame.set_index(["method", "threat_model"])["best"].notna().sum() == 1


def test_a_run_that_was_trained_again_takes_its_old_records_away(
    few: Project, tmp_path: Path
) -> None:
    target, key = tmp_path / "docs", few.table2_keys("at")[0]
    gathered(few, target)
    place = target / Path(*key.directory.parts[2:])
    times = {path: path.stat().st_mtime_ns for path in place.rglob("*.json*")}
    gathered(few, target)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.json*")} == times
    shutil.rmtree(few.root / key.directory)
    gathered(few, target)  # a machine that lacks the run takes nothing away
    assert set(place.rglob("*.json*")) == set(times)
    few.write_run(key, [0.1, 0.3])
    gathered(few, target)
    assert sorted(path.name for path in place.rglob("*.json*")) == ["history.jsonl", "run.json"]


def test_runs_of_other_settings_stay_behind(few: Project, tmp_path: Path) -> None:
    content = shown_content()
    content["suites"]["demo"]["perturbations"]["awp"]["gamma"] = 0.02
    left_out = gathered(few, tmp_path / "docs", content)
    assert any("at-awp/seed0: trained with another perturbation" in text for text in left_out)
    with opened(tmp_path / "docs") as place:
        assert not list((place.root / "results/demo/runs").rglob("at-awp"))


@pytest.mark.parametrize("table", ["datasets", "networks", "threat_models", "recipes"])
def test_runs_of_names_that_are_gone_stay_behind(few: Project, tmp_path: Path, table: str) -> None:
    """They were taken out of the settings while their results remain."""
    content = shown_content()
    places = {"datasets": "digits", "threat_models": "linf", "networks": "small", "recipes": "at"}
    owner = content if table in ("datasets", "networks") else content["suites"]["demo"]
    key = few.table2_keys("at")[0]
    old, new = few.root / key.directory, places[table]
    record = read_object(old / "run.json")
    names = {"datasets": "dataset", "networks": "network", "threat_models": "threat"}
    record["key"][names.get(table, "recipe")] = "gone"
    assert new in owner[table]
    (old / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (told,) = [text for text in gathered(few, tmp_path / "docs") if "'gone'" in text]
    assert "which is gone; bring it back, or leave the run out" in told


def test_networks_of_one_seed_go_along(few: Project, tmp_path: Path) -> None:
    suite = few.params.suites["demo"]
    keys = [key for recipe in suite.table1.recipes for key in few.table2_keys(recipe)]
    for number, key in enumerate(keys):
        for name in ("best.pt", "last.pt", "best_on_test.pt"):
            (few.root / key.directory / name).write_bytes(bytes([number]) * 9)
        digest = sha256_file(few.root / key.directory / "best.pt")
        for path in (few.root / key.directory / "evaluation/best").glob("*.json"):
            record = json.loads(path.read_text()) | {"checkpoint_sha256": digest}
            if path.name != "diagnosis.json":
                path.write_text(json.dumps(record), encoding="utf-8")
    found = gather(shown_content(), "demo", root=few.root, target=tmp_path / "docs")
    assert len(found.networks) == 2 * len(suite.table1.recipes)
    assert {path.name for path in (tmp_path / "docs").rglob("*.pt")} == {"best.pt", "last.pt"}
    for path in found.networks:
        inside = path.relative_to(tmp_path / "docs")
        assert path.read_bytes() == (few.root / "results/demo" / inside).read_bytes()
    target = tmp_path / "small"
    assert not gather(
        shown_content(), "demo", root=few.root, target=target, networks=False
    ).networks
    assert not list(target.rglob("*.pt"))


def test_a_network_that_is_not_the_runs_own_is_not_gathered(few: Project, tmp_path: Path) -> None:
    """What was gathered of it before stays, and so do the records, which are of the right one."""
    suite, target = few.params.suites["demo"], tmp_path / "docs"
    keys = [key for recipe in suite.table1.recipes for key in few.table2_keys(recipe)]
    for key in keys:
        place = few.root / key.directory
        for name in ("best", "last"):
            (place / f"{name}.pt").write_bytes(name.encode())
        document = read_object(place / "run.json")
        networks = {name: sha256_file(place / f"{name}.pt") for name in ("best", "last")}
        write_json(place / "run.json", document | {"networks": networks})
        for path in (place / "evaluation/best").glob("*.json"):
            if path.name != "diagnosis.json":
                write_json(path, read_object(path) | {"checkpoint_sha256": networks["best"]})
    gathered(few, target)
    inside = target.joinpath(*keys[0].directory.parts[2:])
    right = (inside / "best.pt").read_bytes()
    (few.root / keys[0].directory / "best.pt").write_bytes(b"another")
    found = gather(shown_content(), "demo", root=few.root, target=target)
    told = f"{keys[0].directory}/best.pt: not the network that its run.json names"
    assert [text for text in found.left_out if "best" in text] == [told]
    assert (inside / "best.pt").read_bytes() == right
    assert found.networks == []


def test_a_damaged_record_stops_no_gathering(few: Project, tmp_path: Path) -> None:
    key = few.table2_keys("at")[0]
    record = few.root / key.directory / "evaluation/best/natural.json"
    record.write_text(record.read_text()[:300])
    left_out = gathered(few, tmp_path / "docs")
    assert any("natural.json: expected JSON" in text for text in left_out), left_out
    inside = (tmp_path / "docs").joinpath(*key.directory.parts[2:]) / "evaluation/best"
    assert not (inside / "natural.json").exists()
    assert (inside / "pgd-20.json").exists()
    assert (tmp_path / "docs/table1.csv").exists()


def test_only_the_settings_of_the_suite_are_kept() -> None:
    content: dict[str, Any] = copy.deepcopy(shown_content())
    content["suites"] |= {"mine": {"extends": "demo"}, "other": {"nonsense": 1}}
    found = settings_of(content, "mine")
    assert list(found["suites"]) == ["mine", "demo"]
    assert found["build"] == ["mine"]


@pytest.fixture
def committed_folder(few: Project, tmp_path: Path) -> Path:
    gathered(few, tmp_path / "docs")
    return tmp_path / "docs"


def elsewhere(tmp_path: Path) -> Commands:
    """A working folder that is no project."""
    there = Commands.__new__(Commands)
    there.folder = tmp_path / "elsewhere"
    there.folder.mkdir()
    return there


@pytest.mark.slow
def test_bad_folders_are_one_line_each(
    committed_folder: Path, few: Project, tmp_path: Path
) -> None:
    there = elsewhere(tmp_path)

    def report(folder: Path, *words: str) -> Any:
        return there.run("rwp", "report", "--from", str(folder), *words)

    result = report(committed_folder)
    assert result.returncode == 0, result.stderr
    assert (committed_folder / "report.html").exists()
    assert list(there.folder.iterdir()) == []  # no params.yaml, data or state are needed
    assert_one_line(report(tmp_path), "expected gathered results with a results.json, found none")
    assert_one_line(report(tmp_path / "nowhere"), "nowhere: expected gathered results")
    assert_one_line(
        report(committed_folder, "--suite", "demo"), "--suite: expected none with --from"
    )
    manifest, settings = committed_folder / "results.json", committed_folder / "settings.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("rwp.results/1", "rwp.results/2"))
    assert_one_line(
        report(committed_folder), "expected the format rwp.results/1, got 'rwp.results/2'"
    )
    with pytest.raises(UserError, match=r"expected the format rwp\.results/1"):
        gathered(few, committed_folder)
    manifest.write_text(text)
    settings.write_text(settings.read_text().replace('"selection"', '"selected_by"'))
    assert_one_line(report(committed_folder), "settings.json: suites.demo", "'selected_by'")
    settings.unlink()
    assert_one_line(report(committed_folder), "settings.json")


@pytest.mark.slow
def test_claims_are_judged_by_gathered_results(few: Project, tmp_path: Path) -> None:
    """The folder's own claims, or others; nothing is written, and no project is needed."""
    (few.root / "claims.yaml").write_text(CLAIM, encoding="utf-8")
    folder, there = tmp_path / "docs", elsewhere(tmp_path)
    gathered(few, folder)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))

    def claims(*words: str) -> Any:
        return there.run("rwp", "claims", "--from", str(folder), *words)

    found = claims("won")
    assert found.returncode == 0, found.stderr
    told = "won: not told: one training seed: how far seeds spread is not known"
    assert found.stdout == f"{told} (+0.00; wanted above 0 points; 1 seed)\n"
    own = tmp_path / "own.yaml"
    own.write_text(CLAIM.replace("won", "mine").replace("autoattack", "pgd-20"), encoding="utf-8")
    assert claims("--claims", str(own)).stdout.startswith("mine: not told")
    assert_one_line(claims("mine"), f"{folder}/claims.yaml: expected a claim", "got 'mine'")
    assert_one_line(claims("--suite", "demo"), "--suite: expected none with --from")
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    assert list(there.folder.iterdir()) == []


def test_a_folder_of_another_suite_is_not_filled(committed_folder: Path, few: Project) -> None:
    content = shown_content()
    content["suites"]["mine"] = content["suites"]["demo"]
    with pytest.raises(UserError, match="expected a folder of the suite mine, got one of demo"):
        gather(content, "mine", root=few.root, target=committed_folder)
    with pytest.raises(UserError, match="expected trained runs, found none"):
        gather(content, "mine", root=few.root, target=committed_folder.parent / "mine")


@pytest.mark.parametrize(
    "target", ["results/demo", "results/demo-full", "results", ".", "..", "linked"]
)
def test_nothing_is_gathered_over_trainings(few: Project, target: str) -> None:
    (few.root / "linked").symlink_to("results/demo")
    before = {path: path.read_bytes() for path in few.root.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="expected a folder apart from the project's results/"):
        gathered(few, few.root / target)
    assert {path: path.read_bytes() for path in few.root.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_not_filled(few: Project, tmp_path: Path) -> None:
    """Another project's runs, say; one that was left half-filled is filled again."""
    target = tmp_path / "docs"
    target.mkdir()
    (target / "notes.md").touch()
    with pytest.raises(UserError, match="expected an empty folder or one that was gathered"):
        gathered(few, target)
    (target / "notes.md").unlink()
    gathered(few, target)
    assert (target / "results.json").exists()


def test_a_gathering_that_was_stopped_goes_on(
    few: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "docs"
    with monkeypatch.context() as patch:
        patch.setattr("rwp.reporting.gathered._copy_rest", stop)
        with pytest.raises(KeyboardInterrupt):
            gathered(few, target)
    gathered(few, target)
    assert (target / "table1.csv").exists()


def test_a_file_of_the_project_makes_no_stale_result_current(few: Project) -> None:
    """`results.json` marks a gathered folder; whoever has one in a project has another file."""
    (first,), (second,) = few.table2_keys("at"), few.table2_keys("at-awp")
    with_other_code(few.root / first.directory / "run.json")
    with_other_code(few.root / second.directory / "evaluation/best/pgd-20.json")
    manifest = {"format": "rwp.results/1", "suite": "demo"}
    (few.root / "results.json").write_text(json.dumps(manifest), encoding="utf-8")
    found = few.results("table2")
    assert found.runs[first].status == "stale"
    frame = found.attacks.query("attack == 'pgd-20' and checkpoint == 'best'")
    assert list(frame[frame["key"] == second]["status"]) == ["stale"]


def with_other_code(path: Path) -> None:
    document = read_object(path)
    path.write_text(json.dumps(document | {"fingerprint": "0" * 16}), encoding="utf-8")


def test_what_other_code_made_stays_behind(few: Project, tmp_path: Path) -> None:
    """Tables of the project leave it out too; a teacher that was trained again counts as code."""
    (first,), (second,) = few.table2_keys("at"), few.table2_keys("at-awp")
    with_other_code(few.root / first.directory / "run.json")
    with_other_code(few.root / second.directory / "evaluation/best/pgd-20.json")
    left_out = gathered(few, tmp_path / "docs")
    for name, made in ((f"{first.directory}", "trained"), ("at-awp/seed0/eval", "made")):
        assert any(
            name in text and f"{made} with other code or images" in text for text in left_out
        )
    there = {path.parent.parent.name for path in (tmp_path / "docs").rglob("run.json")}
    assert there == {"at-awp", "at-rwp"}
    assert not any("stays, and the tables there count it" in text for text in left_out)
    third = few.table2_keys("at-rwp")[0].directory
    for name in ("run.json", "evaluation/best/pgd-20.json"):
        with_other_code(few.root / third / name)
        again = gathered(few, tmp_path / "docs")
        found = next(text for text in again if text.startswith(str(third)))
        assert found.endswith("before stays, and the tables there count it: remove it")
        shutil.copy(
            tmp_path / "docs" / third.relative_to("results/demo") / name, few.root / third / name
        )
    records = {p.stem for p in (tmp_path / "docs").glob("runs/*/*/*/at-awp/seed0/evaluation/*/*")}
    assert records == {*few.params.suites["demo"].evaluation.attacks} - {"pgd-20"}
    assert any(
        text.endswith("diagnosis.json: judged by another record of pgd-20") for text in left_out
    )


@pytest.mark.slow
def test_a_landscape_of_other_code_stays_behind(filled: Project, tmp_path: Path) -> None:
    assert gathered(filled, tmp_path / "docs") == []
    assert (tmp_path / "docs/landscapes/fig2.csv").exists()
    with_other_code(filled.root / "results/demo/landscapes/fig2.json")
    (left_out, *_) = gathered(filled, tmp_path / "new")
    assert left_out.startswith("results/demo/landscapes/fig2.csv: of other code or images")
    assert not (tmp_path / "new/landscapes").exists()


def test_a_run_that_failed_under_other_settings_is_not_todays(few: Project) -> None:
    (key,) = few.table2_keys("at-awp")
    few.write_run(key, [0.1, 0.1], status="collapsed", reason="it learns nothing")
    assert few.results("table1").runs[key].status == "collapsed"
    content = shown_content()
    content["suites"]["demo"]["perturbations"]["awp"]["gamma"] = 0.02
    few.params = check_params(content)
    run = few.results("table1").runs[key]
    assert (run.status, run.reason) == ("stale", "trained with another perturbation")


def test_gathered_results_are_of_their_time(few: Project, tmp_path: Path) -> None:
    """Code and images of today, which a clone may not even have, make none of them stale."""
    assert gathered(few, tmp_path / "docs")[:-1] == []
    for path in (tmp_path / "docs/runs").rglob("*.json"):
        with_other_code(path)
    with opened(tmp_path / "docs") as place:
        found = read_results(place.params, "demo", root=place.root)
    assert {run.status for run in found.runs.values()} == {"finished", "missing"}
    assert set(found.attacks["status"]) == {"ok", "missing"}


def test_own_code_of_another_time_makes_no_gathered_run_stale(tmp_path: Path) -> None:
    """It may be edited, or not be there at all: nothing of it runs."""
    content = shown_content()
    demo = content["suites"]["demo"]
    demo["objectives"]["mine"] = {"loss": "nowhere.methods:loss"}
    demo["recipes"]["at"] = {"objective": "mine"}
    project = Project(tmp_path / "few", check_params(content), "demo")
    with code_may_lack():
        (key,) = project.table2_keys("at")
        path = project.write_run(key, [0.2, 0.4, 0.3]) / "run.json"
        document = read_object(path)
        document["spec"]["objective"]["source"] = "of that time"
        path.write_text(json.dumps(document))
        step = Steps(project.params).train(key)
        assert why_run_stale(step, read_run_folder(path.parent), project.root) != ""
        with of_its_time_below(project.root):
            assert why_run_stale(step, read_run_folder(path.parent), project.root) == ""
    with pytest.raises(UserError, match=r"nowhere\.methods:loss"):
        Steps(check_params(content)).train(key)


def test_results_of_two_versions_of_own_code_are_not_averaged(tmp_path: Path) -> None:
    content = shown_content()
    content["suites"]["demo"]["objectives"]["mine"] = {"loss": "own.methods:loss"}
    (tmp_path / "settings.json").write_text(json.dumps(content))
    for seed, source in ((0, "then"), (1, "then"), (2, "now")):
        path = tmp_path / f"runs/d/linf/n/r/seed{seed}/run.json"
        path.parent.mkdir(parents=True)
        spec = {"objective": {"loss": "own.methods:loss", "source": source}}
        path.write_text(json.dumps({"spec": spec}))
        if source == "then":
            _check_own_code(tmp_path)
    with pytest.raises(UserError, match=r"seed2.*results of one version of own.methods:loss, got"):
        _check_own_code(tmp_path)


def with_passport(root: Path, dataset: str, **hashes: str) -> None:
    files = {split: {"sha256": value, "count": 400} for split, value in hashes.items()}
    write_passport(root / "data", dataset, **files)


@pytest.mark.parametrize("split", ["train", "test"])
def test_runs_of_other_images_than_the_passports_give_no_number(
    few: Project, tmp_path: Path, split: str
) -> None:
    """They were trained before the images were fetched anew; the passport is of the new ones."""
    key = few.table2_keys("at")[0]
    with_passport(few.root, key.dataset, train="2" * 64, test="1" * 64)
    record = few.root / key.directory / "run.json"
    document = json.loads(record.read_text())
    of_its_time = {"train": "2" * 64, "test": "1" * 64}
    record.write_text(json.dumps(document | {"inputs": of_its_time}))
    target = tmp_path / "docs"
    gathered(few, target)
    assert (target / Path(*key.directory.parts[2:]) / "run.json").exists()
    record.write_text(json.dumps(document | {"inputs": of_its_time | {split: "3" * 64}}))
    why = f"trained with other {split} images than those fetched"
    assert any(text.endswith(f"at/seed0: {why}") for text in gathered(few, tmp_path / "new"))
    assert not (tmp_path / "new" / Path(*key.directory.parts[2:])).exists()
    run = few.results("table1").runs[key]  # nor does it in the project's own tables
    assert (run.status, run.reason) == ("stale", why)
    with_passport(target, key.dataset, **(of_its_time | {split: "3" * 64}))  # gathered later
    with opened(target) as place:
        run = read_results(place.params, "demo", root=place.root).runs[key]
    assert (run.status, run.reason) == ("stale", why)


def test_records_of_another_network_stay_behind(few: Project, tmp_path: Path) -> None:
    """A run was trained again; of its old records one was made again, the other is of before."""
    key = few.table2_keys("at")[0]
    (few.root / key.directory / "best.pt").write_bytes(b"new")
    folder = few.root / key.directory / "evaluation/best"
    record = json.loads((folder / "natural.json").read_text())
    digest = sha256_file(few.root / key.directory / "best.pt")
    (folder / "natural.json").write_text(json.dumps(record | {"checkpoint_sha256": digest}))
    target = tmp_path / "docs"
    left_out = gathered(few, target)
    assert any("pgd-20.json: made with another file than best.pt" in text for text in left_out)
    inside = target / Path(*key.directory.parts[2:]) / "evaluation/best"
    assert sorted(path.name for path in inside.iterdir()) == ["natural.json"]


def test_one_record_of_another_network_than_its_neighbors_is_no_outcome(
    few: Project, tmp_path: Path
) -> None:
    """Without the network nobody knows which is right: no table, no claim, no comparison."""
    key = few.table2_keys("at")[0]
    gathered(few, tmp_path / "docs")
    inside = tmp_path / "docs" / Path(*key.directory.parts[2:]) / "evaluation/best"
    record = json.loads((inside / "natural.json").read_text())
    (inside / "natural.json").write_text(json.dumps(record | {"checkpoint_sha256": "9" * 64}))
    with opened(tmp_path / "docs") as place:
        steps = Steps(place.params)
        run = read_run(steps, key, root=place.root)
        row = read_attack(steps, key, run, "autoattack", place.root, "best")
        assert (row["status"], row["outcome"]) == ("inconsistent", None)
        assert row["reason"] == "made with another file than best.pt"


def with_row(folder: Path, **values: Any) -> None:
    """Other values in the first row of a run's history."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    rows[0] |= values
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("value", [None, "0.3", True, 26.6, -0.1])
def test_a_history_whose_accuracies_are_no_shares_gives_no_number(few: Project, value: Any) -> None:
    folder = few.root / few.table2_keys("at")[0].directory
    with_row(folder, test_robust_accuracy=value)
    run = read_run_folder(folder)
    assert (run.status, run.numbers) == ("inconsistent", {})
    assert f"gives test_robust_accuracy {value!r} at epoch 0, no share" in run.reason
    (folder / "run.json").unlink()  # nor while the training goes on
    assert read_run_folder(folder).status == "inconsistent"


@pytest.mark.parametrize("status", ["finished", "collapsed", "diverged"])
@pytest.mark.parametrize(
    ("measure", "value", "expected"),
    [
        ("test_robust_accuracy", 7.0, "no share from 0 to 1"),
        ("test_robust_accuracy", "0.3", "no share from 0 to 1"),
        ("test_blind_share", None, "no share from 0 to 1"),
        ("share_removed", "0.3", "no number"),
        ("loss_rise", "much", "no number"),
        ("loss_histogram", 0.5, "no list of numbers"),
    ],
)
def test_a_history_of_no_numbers_is_shown_nowhere(
    few: Project, status: str, measure: str, value: Any, expected: str
) -> None:
    """Curves of trainings that failed are shown, so these are looked at as well."""
    key = few.table2_keys("at")[0]
    folder = few.write_run(key, [0.2, 0.4, 0.3], status=status)
    with_row(folder, share_removed=None, loss_rise=None, loss_histogram=[0.5, 0.5])  # not known
    assert read_run_folder(folder).status == status
    with_row(folder, **{measure: value})
    run = read_run_folder(folder)
    assert run.status == "inconsistent"
    assert run.reason == f"history.jsonl gives {measure} {value!r} at epoch 0, {expected}"


def test_a_history_of_no_numbers_is_not_uploaded(
    few: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = few.root / few.table2_keys("at")[0].directory
    with_row(folder, loss_rise="much")
    with pytest.raises(typer.Exit):
        sync(folder)
    assert "history.jsonl gives loss_rise 'much' at epoch 0, no number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("run.json", '"seconds": 12.5', f'"seconds": {10**400}'),
        ("history.jsonl", '"epoch": 0', f'"loss_rise": {10**400}, "epoch": 0'),
    ],
)
def test_numbers_that_no_float_holds_are_refused(
    few: Project, name: str, old: str, new: str
) -> None:
    path = few.root / few.table2_keys("at")[0].directory / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"{name}: expected (JSON|one JSON object)"):
        read_run_folder(path.parent)


def test_a_history_that_goes_on_after_the_last_epoch_gives_no_number(few: Project) -> None:
    folder = few.root / few.table2_keys("at")[0].directory
    lines = (folder / "history.jsonl").read_text().splitlines()
    more = json.dumps(json.loads(lines[-1]) | {"epoch": 3, "test_robust_accuracy": 0.9})
    (folder / "history.jsonl").write_text("\n".join([*lines, more]) + "\n")
    run = read_run_folder(folder)
    assert (run.status, run.numbers) == ("inconsistent", {})
    assert run.reason == "run.json ends at epoch 2, history.jsonl at epoch 3"


def test_a_best_epoch_that_the_history_does_not_give_is_no_number(few: Project) -> None:
    """Best would then be another network than the one that the training chose."""
    (key,) = few.table2_keys("at")
    path = few.root / key.directory / "run.json"
    document = read_object(path)
    path.write_text(json.dumps(document | {"best": document["last"]}), encoding="utf-8")
    run = few.results("table1").runs[key]
    assert run.status == "inconsistent"
    assert run.reason == (
        "run.json gives epoch 2 as best, history.jsonl has its highest held_out_robust_accuracy at"
        " epoch 1"
    )
    assert run.numbers == {}


def test_a_message_names_the_file_of_the_folder(committed_folder: Path) -> None:
    """What was read through a link elsewhere lies in the folder, and is not trained again."""
    history = next(committed_folder.glob("runs/*/*/*/at/seed0/history.jsonl"))
    history.write_text(history.read_text().splitlines()[0], encoding="utf-8")
    with pytest.raises(UserError) as caught:
        page(committed_folder)
    assert str(caught.value).startswith(f"{history.parent}/")
    assert "bring the folder back as it was gathered" in str(caught.value)
    assert "train this run again" not in str(caught.value)


def test_what_cannot_be_read_is_named_where_it_lies(committed_folder: Path) -> None:
    history = next(committed_folder.glob("runs/*/*/*/at/seed0/history.jsonl"))
    history.unlink()
    history.mkdir()
    with pytest.raises((OSError, UserError)) as caught:
        page(committed_folder)
    named = getattr(caught.value, "filename", None) or str(caught.value)
    assert str(named).startswith(f"{history.parent}")
    for name in ("settings.json", "results.json"):
        (committed_folder / name).write_text("")
        with pytest.raises(UserError, match=rf"{name}: .*; bring the folder back as it was"):
            page(committed_folder)


def test_the_first_run_of_a_folder_may_be_the_damaged_one(committed_folder: Path) -> None:
    """It was read before the others, and its deletion advised."""
    first = min(committed_folder.glob("runs/*/*/*/*/seed*/run.json"))
    first.write_text(first.read_text()[:200], encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.json: .*; bring the folder back as it was"):
        page(committed_folder)


def test_runs_of_another_suite_than_the_folder_says_are_refused(committed_folder: Path) -> None:
    manifest = committed_folder / "results.json"
    manifest.write_text(manifest.read_text().replace('"demo"', '"demo-full"'), encoding="utf-8")
    settings = committed_folder / "settings.json"
    content = json.loads(settings.read_text())
    content["suites"]["demo-full"] = content["suites"]["demo"]
    settings.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="expected the suite of its runs, demo, got demo-full"):
        page(committed_folder)


def test_the_committed_claims_are_those_of_the_committed_runs() -> None:
    folder = ROOT / "docs/results/mini-jpeg"
    with opened(folder) as place:
        worded = read_claims(place.root / "claims.yaml")
        frame = judge_claims(place.params, place.suite, worded, root=place.root)
    written = pd.read_csv(folder / "claims.csv")
    assert list(written["claim"]) == list(frame["claim"])
    assert list(written["outcome"]) == list(frame["outcome"])
    told = frame["p_holm"].notna()
    assert told.any()
    for name in ("estimate", "low", "high", "p_holm"):
        expected = frame.loc[told, name].astype(float)
        assert list(written.loc[told, name]) == pytest.approx(list(expected), rel=1e-3)
