"""`rwp evaluate` and `rwp diagnose` for external models, and for a run at other radii."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwp.commands.workers import helpers
from rwp.errors import UserError

if TYPE_CHECKING:
    from rwp.evaluation.external_models import ExternalModel
    from rwp.pipeline.settings import Params, Suite
    from rwp.training.spec import AttackSpec, RunKey


@dataclass(frozen=True)
class ExternalRequest:
    """A model that this project did not train, or a run's at other radii, as a command names it."""

    params: Params
    params_file: Path
    checkpoint: Path | None
    arch: str | None
    layout: str | None
    model: str | None
    suite: str
    dataset: str | None
    attacks: tuple[str, ...]
    output: Path
    threat: str = ""  # of a run of this project; else that of the suite's table 2
    network: str = ""  # of a run of this project, by which settings may differ

    @classmethod
    def of_run(
        cls,
        params: Params,
        params_file: Path,
        checkpoint: Path | None,
        key: RunKey,
        attacks: tuple[str, ...],
        output: Path,
    ) -> ExternalRequest:
        """The network of a run, on its data set, under the threat model that it is attacked in."""
        from rwp.pipeline.resolve_evaluation import attacked_under

        return cls(
            params=params,
            params_file=params_file,
            checkpoint=checkpoint,
            arch=None,
            layout=None,
            model=None,
            suite=key.suite,
            dataset=key.dataset,
            attacks=attacks,
            output=output,
            threat=attacked_under(params.suites[key.suite], key),
            network=key.network,
        )

    def __post_init__(self) -> None:
        from rwp.pipeline.lookup import choose

        if self.model is None and self.checkpoint is None:
            raise UserError(
                "expected --checkpoint FILE or --model MODULE:FACTORY, got neither; name one"
            )
        if self.model is not None and (self.checkpoint, self.arch, self.layout) != (None,) * 3:
            raise UserError(
                "expected either --model or --checkpoint, --arch and --layout, got both; "
                "leave one out"
            )
        choose(self.params.suites, self.suite, "suite", "--suite")
        choose(self.params.datasets, self.dataset_name, "data set", "--dataset")

    @property
    def entry(self) -> Suite:
        """The suite whose attacks are run."""
        return self.params.suites[self.suite]

    @property
    def under_other_threats(self) -> frozenset[str]:
        """The suite's attacks that have a norm and a radius of their own."""
        attacks = self.entry.evaluation.attacks
        return frozenset(name for name, attack in attacks.items() if attack.has_other_threat)

    @property
    def dataset_name(self) -> str:
        """The data set, that of the suite's table 2 unless named."""
        return self.dataset or self.entry.table2.dataset

    @property
    def images(self) -> Path:
        """The test images, below the working folder or that of params.yaml."""
        place = Path("data") / self.dataset_name / "test.pt"
        for folder in (Path(), self.params_file.parent):
            if (folder / place).exists():
                return folder / place
        raise UserError(
            f"{place}: expected the test images, found none; "
            f"run `rwp data fetch {self.dataset_name}`"
        )

    def specs(self, epsilon: str | None = None) -> list[AttackSpec]:
        """The suite's attacks under the threat model of its table 2, or at another radius."""
        from rwp.evaluation.external import at_radius
        from rwp.pipeline.lookup import choose
        from rwp.pipeline.resolve_evaluation import attack_spec, attacks_under_network_threat
        from rwp.training.spec import RunKey

        key = RunKey(
            suite=self.suite,
            dataset=self.dataset_name,
            threat=self.threat or self.entry.table2.threat_model,
            network=self.network or self.arch or "external",
            recipe="external",
            seed=0,
        )
        table = self.entry.evaluation.attacks
        # Attacks under other threat models are run where they are named.
        names = self.attacks or attacks_under_network_threat(self.entry)
        chosen = {name: choose(table, name, "attack", "--attack") for name in names}
        other = next((name for name, attack in chosen.items() if attack.has_other_threat), None)
        if epsilon is not None and other is not None:
            raise UserError(
                f"--epsilons: expected attacks under the threat model of {self.suite}, got "
                f"{other}, which has a norm and a radius of its own; leave one of them out"
            )
        specs = [
            attack_spec(self.entry, key, name, attack, key.threat)
            for name, attack in chosen.items()
        ]
        return specs if epsilon is None else [at_radius(spec, epsilon) for spec in specs]

    def check_classes(self, specs: list[AttackSpec]) -> None:
        """Refuse what these images have too few or too many classes for, before hours are spent."""
        from rwp.data.images import ImageSet
        from rwp.evaluation.spec import check_num_classes

        slow = [spec for spec in specs if spec.kind == "autoattack"]
        num_classes = ImageSet.load(self.images).num_classes if slow else 0
        for spec in slow:
            check_num_classes(spec.name, spec.version, num_classes)

    def load(self, device: str) -> ExternalModel:
        """Build it and give it its weights."""
        from rwp.core.models.converters import LAYOUTS
        from rwp.data.images import ImageSet
        from rwp.data.passport import PASSPORT, read_passport
        from rwp.evaluation.external_models import load_checkpoint, load_factory
        from rwp.pipeline.lookup import choose

        if self.model is not None:
            return load_factory(self.model, device=device)
        images, definition = ImageSet.load(self.images), self.params.datasets[self.dataset_name]
        networks, given = self.params.networks, (definition.mean, definition.std)
        mean, std = given
        if self.arch and None in given:
            mean, std = read_passport(self.images.parent / PASSPORT).normalization()
        found = load_checkpoint(
            self.checkpoint or Path(),
            architecture=choose(networks, self.arch, "network", "--arch") if self.arch else None,
            layout=self.layout,
            num_classes=images.num_classes,
            in_channels=images.shape[0],
            mean=mean,
            std=std,
            image_size=images.shape[1:],
            device=device,
            known=networks,
        )
        outside = self.layout in LAYOUTS and LAYOUTS[self.layout].normalization == "outside"
        if outside and mean and std:
            shown = [", ".join(f"{value:.4g}" for value in values) for values in (mean, std)]
            print(
                f"normalized by mean ({shown[0]}) and std ({shown[1]}) of {self.dataset_name};"
                f" if its program took others, write them under datasets.{self.dataset_name}"
            )
        return found

    def part(self) -> dict[str, Any]:
        """Which images, in what batches, from which starts."""
        evaluation = self.entry.evaluation
        return {
            "data": self.images,
            "batch_size": evaluation.batch_size,
            "seed": evaluation.seed,
            "num_examples": evaluation.num_examples,
            "first_examples": evaluation.first_examples,
            "part_seed": evaluation.part_seed,
        }

    def words(self) -> list[str]:
        """The options that name it, for a process that helps."""
        given = {
            "--checkpoint": self.checkpoint,
            "--arch": self.arch,
            "--layout": self.layout,
            "--model": self.model,
            "--params": self.params_file,
        }
        if not self.threat:  # a run has both in its name
            given |= {"--dataset": self.dataset_name, "--suite": self.suite}
        return [f"{key}={value}" for key, value in given.items() if value is not None]


def evaluate_request(
    request: ExternalRequest, *, workers: int = 1, epsilons: tuple[str, ...] = ()
) -> dict[str, list[Path]]:
    """Run the attacks and write one record each; the records by radius ("" where none is named)."""
    from rwp.gpu import claim

    jobs = {
        epsilon: (request.specs(epsilon), request.output / f"epsilon-{epsilon.replace('/', '-')}")
        for epsilon in epsilons
    }
    jobs = jobs or {"": (request.specs(), request.output)}
    slow = [spec.name for spec in jobs[next(iter(jobs))][0] if spec.kind == "autoattack"]
    words = ["evaluate", *request.words(), f"--output={request.output}"]
    words += [f"--attack={attack}" for attack in slow]
    words += [f"--epsilons={','.join(epsilons)}"] if epsilons else []
    _ = request.images  # missing images end it before torch is imported
    request.check_classes([spec for specs, _ in jobs.values() for spec in specs])
    with helpers(workers - 1 if slow else 0, words), claim() as device:
        from rwp.evaluation.external import evaluate_external
        from rwp.progress import EvaluationProgress

        loaded = request.load(device)
        with EvaluationProgress(loaded.name):
            return {
                epsilon: evaluate_external(
                    loaded,
                    attacks=specs,
                    out=folder,
                    state=Path(".state"),
                    device=device,
                    on_clean=lambda accuracy: print(f"clean accuracy {accuracy:.2%}", flush=True),
                    other_threats=request.under_other_threats,
                    **request.part(),
                )
                for epsilon, (specs, folder) in jobs.items()
            }


def show_verdict(paths: list[Path], request: ExternalRequest) -> None:
    """Print what the records say about each other."""
    from rwp.evaluation.external import verdict_on
    from rwp.evaluation.verdict import MEANING
    from rwp.pipeline.resolve_evaluation import attacks_under_network_threat

    judged = [path for path in paths if path.stem in attacks_under_network_threat(request.entry)]
    if not judged:
        print("verdict: none (attacks under other threat models are not judged)")
        return
    if any(request.entry.evaluation.attacks[path.stem].draft for path in judged):
        print("verdict: none (a draft is an upper bound, for development)")
        return
    verdict = verdict_on(judged, dataset=request.dataset_name, data=request.images)
    print(f"verdict: {verdict.level} ({MEANING[verdict.level]})")
    for reason in verdict.reasons:
        print(f"  {reason.level}: {reason.text}")


def diagnose_request(request: ExternalRequest) -> Path:
    """The verdict on the records in the output folder, with further attacks where in doubt."""
    from rwp.gpu import claim

    _ = request.images
    with claim() as device:
        from rwp.evaluation.external import diagnose_external

        return diagnose_external(
            request.load(device),
            attacks=request.specs(),
            dataset=request.dataset_name,
            out=request.output,
            device=device,
            **request.part(),
        )
