"""Each step of the pipeline, defined once: settings, inputs, outputs, code and resources.

Everything that asks how a file is made (the rules, `rwp plan`, `rwp verify`, the report's gaps)
asks a `Step`. A path belongs to one step, and a step names its own paths: `find` goes from the one
to the other.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from itertools import chain, product
from pathlib import Path, PurePosixPath
from typing import Concatenate, Literal, ParamSpec, TypeVar

from rwp.data.content import content_of
from rwp.data.passport import PASSPORT, read_passport
from rwp.data.spec import DatasetSpec, UnlabeledSpec
from rwp.errors import UserError
from rwp.evaluation.spec import (
    CHECKPOINTS,
    DiagnosisSpec,
    EvaluationSpec,
    LandscapeSpec,
    record_fingerprint,
    record_path,
)
from rwp.files import object_in, read_object, sha256_file
from rwp.pipeline.code import CODE, HERE, Code, read_ledger
from rwp.pipeline.lookup import choose, get_suite, run_key
from rwp.pipeline.own_code import may_lack
from rwp.pipeline.resolve import num_gpus, train_spec
from rwp.pipeline.resolve_evaluation import attack_jobs, evaluation_spec, landscape_spec
from rwp.pipeline.settings import Frozen, Params, Suite
from rwp.pipeline.suites import (
    BEYOND,
    TABLES,
    check_final,
    diagnosis_spec,
    runs_of,
)
from rwp.spec import Spec, merkle
from rwp.training.spec import (
    PseudoLabelSpec,
    RunKey,
    TrainSpec,
    kept_checkpoint,
    kept_start,
    suite_directory,
)

Kind = Literal[
    "fetch", "train", "label", "evaluate", "judge", "landscape", "table", "figure", "report"
]
Settings = (
    DatasetSpec
    | UnlabeledSpec
    | TrainSpec
    | PseudoLabelSpec
    | EvaluationSpec
    | DiagnosisSpec
    | LandscapeSpec
    | Frozen
    | None
)

PLANNED = ("train", "label", "evaluate", "judge", "landscape")  # whose jobs get their fingerprint
PAPER = "paper"  # whose results lie in `results` itself, beside the folders of all other suites
CLAIMS = Path("claims.yaml")  # a project without it judges none
# These decide nothing about fetched images.
_BYTES_ELSEWHERE = ("mirror", "mean", "std", "license", "per_class")
_SEED = re.compile(r"seed(\d+)")
_LABELS = re.compile(r"(?P<source>.+)-seed(?P<seed>\d+)\.(pt|json)")

P = ParamSpec("P")
S = TypeVar("S", bound=Spec)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Step:
    """One job: what it does, what it reads (files and the steps that make them), what it writes."""

    kind: Kind
    name: str
    settings: Settings
    inputs: Mapping[str, Step]
    outputs: tuple[str, ...]
    code: str
    record: str | None = None  # the output that carries the fingerprint, if one does
    gpus: int = 1
    notes: str = ""  # what else it shows: the report, the changes of code that were accepted
    source: Code = field(default=HERE, repr=False)

    def settings_as(self, kind: type[S]) -> S:
        """The settings of a step whose kind is known."""
        if not isinstance(self.settings, kind):
            raise TypeError(f"expected {kind.__name__}, got {type(self.settings).__name__}")
        return self.settings

    @cached_property
    def code_hash(self) -> str:
        """Of the code that does it."""
        return self.source.hash(self.code)

    @cached_property
    def fingerprint(self) -> str:
        """Of what it stands on; an evaluation's leaves out its attacks, as each has a record."""
        upstream = dict.fromkeys(step.fingerprint_of(path) for path, step in self.inputs.items())
        own = [self.content] if self.content else []
        return merkle(self.kind, self.name, self._text, self.code_hash, *upstream, *own)

    @cached_property
    def content(self) -> str:
        """A hash of the user's own images or weights that it reads; empty for all other steps.

        Where they are not at hand, as in a clone that pulled results alone, what the passport or
        the run says of them.
        """
        settings = self.settings
        if isinstance(settings, TrainSpec) and settings.start and settings.start.file:
            weights = Path(settings.start.file)
            if weights.is_file():
                return sha256_file(weights)
            record = Path(self.record or "")
            document = read_object(record) if record.is_file() else {}
            return str(object_in(document, "inputs").get("start", ""))
        if not isinstance(settings, DatasetSpec | UnlabeledSpec) or settings.path is None:
            return ""
        found = content_of(settings.path)
        if found:
            return found
        passport = Path(self.outputs[-1])
        return read_passport(passport).content if passport.exists() else ""

    @cached_property
    def digest(self) -> str:
        """Of the whole job, for Snakemake: it changes where any of its outputs is stale."""
        return merkle(*dict.fromkeys(map(self.fingerprint_of, self.outputs)))

    def fingerprint_of(self, path: str) -> str:
        """The fingerprint of one of the outputs."""
        if isinstance(self.settings, EvaluationSpec):
            stem = PurePosixPath(path).stem
            attack = next(attack for attack in self.settings.attacks if attack.name == stem)
            return record_fingerprint(self.fingerprint, attack)
        return self.fingerprint

    @property
    def records(self) -> tuple[str, ...]:
        """The outputs that carry a fingerprint."""
        if self.kind == "evaluate":
            return self.outputs
        return (self.record,) if self.record else ()

    @property
    def _text(self) -> str:
        settings = self.settings
        if isinstance(settings, EvaluationSpec):
            return settings.canonical(without=("attacks",))
        if isinstance(settings, DatasetSpec | UnlabeledSpec):
            return settings.canonical(without=_BYTES_ELSEWHERE)
        if isinstance(settings, Spec):
            return settings.canonical()
        return settings.model_dump_json(exclude_defaults=True) if settings else self.notes


def _once(make: Callable[Concatenate[Steps, P], Step]) -> Callable[Concatenate[Steps, P], Step]:
    """A method of `Steps` that makes each step once."""

    @wraps(make)
    def known(self: Steps, *names: P.args, **more: P.kwargs) -> Step:
        key = (make.__name__, *names, *more.items())
        if key not in self._made:
            self._made[key] = make(self, *names, **more)
        return self._made[key]

    return known


class Steps:
    """The steps of one set of settings, each made once."""

    def __init__(self, params: Params, source: Code = HERE) -> None:
        self.params = params
        self._made: dict[tuple[object, ...], Step] = {}
        self._step = partial(Step, source=source)

    @_once
    def fetch(self, dataset: str) -> Step:
        """A labeled data set."""
        definition = choose(self.params.datasets, dataset, "data set", "params.yaml: datasets")
        files = tuple(f"data/{dataset}/{name}" for name in ("train.pt", "test.pt", PASSPORT))
        return self._step("fetch", dataset, definition, {}, files, CODE["fetch"])

    @_once
    def fetch_unlabeled(self, source: str) -> Step:
        """A source of unlabeled images."""
        table = self.params.unlabeled
        definition = choose(table, source, "unlabeled source", "params.yaml: unlabeled")
        files = (f"data/unlabeled/{source}.pt", f"data/unlabeled/{source}.json")

        inputs = {}
        if definition.dataset is not None:
            passport = f"data/{definition.dataset}/{PASSPORT}"
            inputs[passport] = self.fetch(definition.dataset)
        code = CODE["unlabeled"]
        return self._step("fetch", source, definition, inputs, files, code)

    @_once
    def train(self, key: RunKey) -> Step:
        """A training."""
        spec, data = train_spec(self.params, key), self.fetch(key.dataset)
        splits = ["train", "test"] if spec.needs_test else ["train"]
        inputs = {f"data/{key.dataset}/{split}.pt": data for split in splits}
        if spec.unlabeled is not None:
            source = spec.unlabeled.source
            inputs[f"data/unlabeled/{source}.pt"] = self.fetch_unlabeled(source)
            labels = spec.unlabeled.labeling
            inputs[str(labels.path)] = self.label(labels)
        if spec.start is not None and (parent := spec.start.parent(key)):
            inputs[str(spec.start.path(key))] = self.train(parent)
        elif spec.start is not None:
            _check_weights(spec.start.file or "", key)
        folder, suite = str(key.directory), self.params.suites[key.suite]
        kept = [str(kept_checkpoint(key, epoch)) for epoch in spec.keep_epochs]
        kept += [str(kept_start(key, epoch)) for epoch in spec.keep_starts]
        return self._step(
            "train",
            key.name,
            spec,
            inputs,
            (*training_outputs(suite, folder), *kept),
            CODE["train"],
            record=f"{folder}/run.json",
            gpus=num_gpus(self.params, key),
        )

    @_once
    def label(self, spec: PseudoLabelSpec) -> Step:
        """A teacher labels unlabeled images."""
        labels, teacher = str(spec.path), spec.teacher
        inputs = {
            f"{teacher.directory}/last.pt": self.train(teacher),
            f"data/unlabeled/{spec.source}.pt": self.fetch_unlabeled(spec.source),
            f"data/{teacher.dataset}/test.pt": self.fetch(teacher.dataset),
        }
        record = str(spec.path.with_suffix(".json"))
        outputs, code = (labels, record), CODE["label"]
        return self._step("label", labels, spec, inputs, outputs, code, record=record)

    @_once
    def evaluate(self, key: RunKey, checkpoint: str, attack: str) -> Step:
        """What makes the record of an attack on a network, and of those that share its job."""
        jobs = attack_jobs(self.params.suites[key.suite])
        return self._evaluate(key, checkpoint, next(names for names in jobs if attack in names))

    @_once
    def _evaluate(self, key: RunKey, checkpoint: str, names: tuple[str, ...]) -> Step:
        spec = evaluation_spec(self.params, key, checkpoint=checkpoint, attacks=names)
        outputs = tuple(str(spec.record(name)) for name in names)
        name, code = f"{key.name}/{checkpoint}", CODE["evaluate"]
        inputs = self._network(key, checkpoint)
        return self._step("evaluate", name, spec, inputs, outputs, code)

    @_once
    def judge(self, key: RunKey, checkpoint: str) -> Step:
        """The verdict on the records of all attacks on a network."""
        spec = diagnosis_spec(self.params, key, checkpoint=checkpoint)
        looked_at = {str(spec.evaluation.record(a.name)) for a in spec.evaluation.attacks}
        records = self._records(key, checkpoint)
        inputs = self._network(key, checkpoint)
        inputs |= {path: step for path, step in records.items() if path in looked_at}
        if spec.twin is not None:
            inputs[str(spec.twin_checkpoint)] = self.train(spec.twin)
        path, code = str(spec.path), CODE["judge"]
        name = f"{key.name}/{checkpoint}"
        return self._step("judge", name, spec, inputs, (path,), code, record=path)

    @_once
    def landscape(self, suite: str, figure: str) -> Step:
        """Losses around a run's checkpoints, for a figure."""
        spec = landscape_spec(self.params, suite, figure)
        dataset = spec.key.dataset
        inputs = {str(path): self.train(key) for path, key in spec.checkpoints.items()}
        for split in ("train", "test") if spec.test_images else ("train",):
            inputs[f"data/{dataset}/{split}.pt"] = self.fetch(dataset)
        losses = spec.result(figure)
        outputs = (str(losses), str(losses.with_suffix(".json")))
        code = CODE["landscape"]
        return self._step("landscape", figure, spec, inputs, outputs, code, outputs[1])

    @_once
    def table(self, suite: str, name: str) -> Step:
        """Table 1, Table 2 (with the pairs of defenses) or the table beyond the paper."""
        entry, base = get_suite(self.params, suite), suite_directory(suite)
        outputs = [f"{base}/{name}.csv", f"{base}/{name}_details.csv"]
        inputs: dict[str, Step] = {}
        check_final(entry, suite, name)
        runs = runs_of(self.params, suite, name)
        settings: Frozen | None
        if name == "table1":
            settings = entry.table1
        elif name == "table2":
            settings = entry.table2
            outputs.append(f"{base}/comparisons.csv")
            for key in runs:
                verdict = self.judge(key, "best")
                inputs |= self._records(key, "best") | {verdict.outputs[0]: verdict}
                for checkpoint in entry.also_attacked.of(key.recipe):
                    inputs |= self._records(key, checkpoint)
        elif name == BEYOND and entry.beyond is not None:
            settings = entry.beyond
            for key in runs:
                records = self._records(key, "best")
                for attack in entry.beyond.attacks:
                    path = str(record_path(key.directory, "best", attack))
                    inputs[path] = records[path]
        else:
            raise UserError(
                f"params.yaml: suites.{suite}.{name}: expected groups of rows, got none; add some"
            )
        inputs = self._histories(runs) | inputs
        return self._step(
            "table",
            f"{suite}/{name}",
            settings,
            inputs,
            tuple(outputs),
            CODE[name],
        )

    @_once
    def figure(self, suite: str, name: str) -> Step:
        """One figure, and its numbers."""
        runs = runs_of(self.params, suite, name)
        entry = self.params.suites[suite].figures[name]
        if entry.kind == "landscape":
            landscape = self.landscape(suite, name)
            inputs = {landscape.outputs[0]: landscape}
        else:
            inputs = self._histories(runs)
        if entry.kind == "movement":
            inputs |= {f"{key.directory}/losses.npz": self.train(key) for key in runs}
        base, code = suite_directory(suite), CODE["figure"]
        outputs = tuple(f"{base}/{name}.{kind}" for kind in ("csv", "svg", "png"))
        title = f"{suite}/{name}"
        return self._step("figure", title, entry, inputs, outputs, code)

    def _tables_and_parts(self, suite: str) -> tuple[list[Step], list[Step]]:
        """Tables 1 and 2, and what else the suite reports: figures, the table beyond the paper."""
        tables = [self.table(suite, name) for name in TABLES]
        parts = [
            self.table(suite, name) if name == BEYOND else self.figure(suite, name)
            for name in get_suite(self.params, suite).reported
        ]
        return tables, parts

    @_once
    def claims(self, suite: str) -> Step:
        """The paper's claims, judged by the runs behind the report; others are called missing."""
        inputs: dict[str, Step] = {}
        for part in chain(*self._tables_and_parts(suite)):
            inputs.update(part.inputs)
        outputs, code = (f"{suite_directory(suite)}/claims.csv",), CODE["claims"]
        title, words = f"{suite}/claims", CLAIMS.read_text("utf-8", errors="replace")
        return self._step("table", title, None, inputs, outputs, code, notes=words)

    @_once
    def report(self, suite: str) -> Step:
        """The report, from the tables and what they stand on."""
        tables, parts = self._tables_and_parts(suite)
        inputs = {step.outputs[0]: step for step in tables}
        inputs |= {next(self._shown(step)): step for step in parts}
        inputs |= tables[1].inputs
        if CLAIMS.exists():
            judged = self.claims(suite)
            inputs[judged.outputs[0]] = judged
        base, code = suite_directory(suite), CODE["report"]
        outputs = (f"{base}/report.html",)
        lines = [json.dumps(entry) for entry in accepted(inputs.values())]
        lines.append(get_suite(self.params, suite).description)
        return self._step(
            "report",
            suite,
            None,
            inputs,
            outputs,
            code,
            notes="\n".join(lines),
        )

    @_once
    def metrics(self, suite: str) -> Step:
        """Both tables in short, where DVC finds those of every suite."""
        tables = [self.table(suite, name) for name in TABLES]
        inputs = {step.outputs[0]: step for step in tables}
        inputs |= {**tables[0].inputs, **tables[1].inputs}
        outputs = (f"results/metrics/{suite}.json", f"results/plots/{suite}.csv")
        code = CODE["metrics"]
        return self._step("table", f"{suite}/metrics", None, inputs, outputs, code)

    def suite(self, name: str) -> list[Step]:
        """The steps at the end of a suite; what they stand on is all of it."""
        return [self.report(name), self.metrics(name)]

    @staticmethod
    def _shown(step: Step) -> Iterator[str]:
        ending = ".svg" if step.kind == "figure" else ".csv"
        return (path for path in step.outputs if path.endswith(ending))

    def _network(self, key: RunKey, checkpoint: str) -> dict[str, Step]:
        """A network and the test images that it is attacked on."""
        return {
            f"{key.directory}/{checkpoint}.pt": self.train(key),
            f"data/{key.dataset}/test.pt": self.fetch(key.dataset),
        }

    def _records(self, key: RunKey, checkpoint: str) -> dict[str, Step]:
        """The records of all attacks of a suite, in its order."""
        return {
            str(record_path(key.directory, checkpoint, name)): self.evaluate(key, checkpoint, name)
            for name in self.params.suites[key.suite].evaluation.attacks
        }

    def _histories(self, keys: Iterable[RunKey]) -> dict[str, Step]:
        """What tables and figures read of trainings."""
        names = ("run.json", "history.jsonl")
        return {f"{key.directory}/{name}": self.train(key) for key in keys for name in names}

    def find(self, path: str) -> Step:
        """The step that makes a file; a run's folder means its training.

        Raises:
            UserError: no step makes it, or it is another name for a file of one.
        """
        try:
            step = self._named(path)
        except UserError as error:
            raise UserError(str(error) if path in str(error) else f"{path}: {error}") from error
        if path in step.outputs or path == _folder(step):
            return step
        part = "suffix" if step.kind == "label" else "name"  # the name of labels holds a seed
        own = {getattr(PurePosixPath(output), part): output for output in step.outputs}
        proper = own.get(getattr(PurePosixPath(path), part))
        if proper is None:
            raise UserError(f"{path}: expected one of {', '.join(step.outputs)}, got another file")
        raise UserError(f"{path}: expected {proper}, which is the same; ask for that one")

    def _named(self, path: str) -> Step:
        match posixpath.normpath(path).split("/"):
            case ["data", "unlabeled", name]:
                return self.fetch_unlabeled(PurePosixPath(name).stem)
            case ["data", dataset, _]:
                return self.fetch(dataset)
            case ["results", "metrics" | "plots", name]:
                return self.metrics(PurePosixPath(name).stem)
            case ["results", suite, *rest] if rest and suite in self.params.suites:
                return self._result(path, suite, rest)
            case ["results", *rest] if PAPER in self.params.suites:
                return self._result(path, PAPER, rest)
        raise _no_step(path)

    def _result(self, path: str, suite_name: str, parts: list[str]) -> Step:
        suite, kinds = self.params.suites[suite_name], (".csv", ".svg", ".png")
        match parts:
            case ["runs", dataset, threat, network, recipe, seed, *rest] if _SEED.fullmatch(seed):
                key = run_key(
                    self.params,
                    suite_name,
                    dataset=dataset,
                    threat=threat,
                    network=network,
                    recipe=recipe,
                    seed=int(seed.removeprefix("seed")),
                )
                return self._of_run(path, key, rest)
            case ["pseudo_labels", dataset, name] if found := _LABELS.fullmatch(name):
                return self._labels(path, suite_name, dataset, found["source"], int(found["seed"]))
            case ["landscapes", name]:
                figure = PurePosixPath(name).stem
                if figure in suite.figures and suite.figures[figure].kind == "landscape":
                    return self.landscape(suite_name, figure)
            case ["report.html"]:
                return self.report(suite_name)
            case ["claims.csv"] if CLAIMS.exists():
                return self.claims(suite_name)
            case ["comparisons.csv"]:
                return self.table(suite_name, "table2")
            case [name] if PurePosixPath(name).suffix in kinds:
                stem = PurePosixPath(name).stem
                table = stem.removesuffix("_details")
                if table in TABLES or (table == BEYOND and suite.beyond):
                    return self.table(suite_name, table)
                if stem in suite.figures or PurePosixPath(name).suffix == ".svg":
                    return self.figure(suite_name, stem)
        raise _no_step(path)

    def _of_run(self, path: str, key: RunKey, rest: list[str]) -> Step:
        match rest:
            case ["evaluation", checkpoint, "diagnosis.json"] if checkpoint in CHECKPOINTS:
                return self.judge(key, checkpoint)
            case ["evaluation", checkpoint, name] if checkpoint in CHECKPOINTS:
                suite = self.params.suites[key.suite]
                attack = PurePosixPath(name).stem
                where = f"params.yaml: suites.{key.suite}.evaluation.attacks"
                choose(suite.evaluation.attacks, attack, "attack", where)
                return self.evaluate(key, checkpoint, attack)
            case [] | [_] | ["checkpoints", _]:
                return self.train(key)
        raise _no_step(path)

    def _labels(self, path: str, suite: str, dataset: str, source: str, seed: int) -> Step:
        """That of any training of the suite that uses the source."""
        entry, fault = self.params.suites[suite], None
        recipes = [
            name
            for name, recipe in entry.recipes.items()
            if (unlabeled := entry.objectives[recipe.objective].unlabeled)
            and source in unlabeled.source.values()
        ]
        networks = (None, *self.params.networks)
        for recipe, threat, network in product(recipes, entry.threat_models, networks):
            try:
                key = run_key(
                    self.params,
                    suite,
                    recipe=recipe,
                    dataset=dataset,
                    threat=threat,
                    network=network,
                    seed=seed,
                )
                mix = train_spec(self.params, key).unlabeled
            except UserError as error:  # no such training, and nobody asked for one
                fault = error
                continue
            if mix is not None and mix.source == source:
                return self.label(mix.labeling)
        raise fault or UserError(
            f"{path}: expected a source that suite {suite} uses, got {source}; look at its "
            "objectives"
        )


def accepted(steps: Iterable[Step]) -> list[dict[str, str]]:
    """The changes of code that were accepted for steps or for steps that they need."""
    kinds = {step.kind for step in below(steps)}
    return [entry for entry in read_ledger() if entry["step"] in kinds]


def _no_step(path: str) -> UserError:
    return UserError(
        f"{path}: expected a file that the workflow makes, got another; try"
        f" results/demo/table2.csv, or `snakemake --list` for the names of steps"
    )


def _folder(step: Step) -> str | None:
    return str(PurePosixPath(step.outputs[0]).parent) if step.kind == "train" else None


def training_outputs(suite: Suite, folder: str) -> tuple[str, ...]:
    """The files of every training of a suite, in a run's folder or in a pattern of one.

    Where the test split is measured, the epoch that is best on it is kept, too.
    """
    names = ["last.pt", "best.pt", "history.jsonl", "run.json"]
    more = ["best_on_test.pt"] if suite.test_curve else []
    more += ["losses.npz"] if suite.keep_losses else []
    return tuple(f"{folder}/{name}" for name in (*names, *more))


def _check_weights(file: str, key: RunKey) -> None:
    """Weights that a training starts from lie there, or the training is done."""
    if not (may_lack() or Path(file).is_file() or Path(str(key.directory), "run.json").is_file()):
        raise UserError(
            f"{file}: expected the weights that {key.name} starts from, found no file; put them "
            "there, or change the recipe's start"
        )


def below(steps: Iterable[Step]) -> list[Step]:
    """The steps and all that they need, each once, in an order in which they can run."""
    found: dict[Step, None] = {}

    def visit(step: Step) -> None:
        if step not in found:
            for other in dict.fromkeys(step.inputs.values()):
                visit(other)
            found[step] = None

    for step in steps:
        visit(step)
    return list(found)
