from pathlib import Path

import pytest
import torch

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import autoattack as module, jobs
from rwp.evaluation.jobs import evaluate_checkpoint
from rwp.evaluation.records import (
    clean_flags,
    on_common_images,
    read_record,
    robust_flags,
    unpack,
    worst_case,
)
from rwp.evaluation.shared_batches import clear_folder, shared_folder
from rwp.evaluation.spec import record_fingerprint
from rwp.files import sha256_file, write_json
from rwp.training.checkpoint import load_network, save_network
from tests.evaluation.conftest import Project
from tests.evaluation.samples import (
    NETWORK,
    ShortAutoAttack,
    attack,
    autoattack_spec,
    small_network,
)


def run(project: Project, **changes) -> list[Path]:
    spec = project.spec.replace(**changes)
    return evaluate_checkpoint(
        spec, root=project.root, fingerprint="f1", state=project.root / ".state"
    )


def test_one_record_per_attack(trained: Project, images: ImageSet):
    paths = run(trained)
    assert [path.name for path in paths] == ["natural.json", "pgd-20.json"]
    natural, pgd = map(read_record, paths)
    assert natural.key == trained.spec.key
    assert natural.checkpoint_sha256 == sha256_file(trained.checkpoint)
    assert natural.fingerprint == record_fingerprint("f1", natural.attack)
    assert natural.fingerprint != pgd.fingerprint
    model, _ = load_network(trained.checkpoint)
    correct = model(images.images.float() / 255).argmax(1) == images.labels
    assert clean_flags(pgd).tolist() == robust_flags(natural).tolist() == correct.tolist()
    assert 0.099 < pgd.max_perturbation < 0.10001
    assert pgd.attack.threat.epsilon == "0.1"


def test_the_attacks_get_the_seed_that_the_record_names(trained: Project, monkeypatch):
    given, run_attacks = [], jobs.run_attacks

    def noted(*objects, seed, **options):
        given.append(seed)
        run_attacks(*objects, seed=seed, **options)

    monkeypatch.setattr(jobs, "run_attacks", noted)
    assert [read_record(path).seed for path in run(trained, seed=7)] == [7, 7]
    assert given == [7]


def test_finished_attacks_are_kept_and_changed_ones_run(trained: Project):
    first, second = run(trained)
    before = [path.stat().st_mtime_ns for path in (first, second)]
    shorter = attack("pgd-20", "pgd", num_steps=2, step_size="0.03")
    run(trained, attacks=(trained.spec.attacks[0], shorter))
    after = [path.stat().st_mtime_ns for path in (first, second)]
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert read_record(second).attack.num_steps == 2


def test_a_network_that_is_not_the_runs_own_is_not_attacked_in_its_name(trained: Project):
    record = trained.checkpoint.parent / "run.json"
    own = {"networks": {"best": sha256_file(trained.checkpoint)}}
    seeds = iter(range(100, 200))  # so that nothing is done yet
    try:
        write_json(record, {"networks": {"best": "0" * 64}})
        with pytest.raises(UserError, match=r"expected the network that run\.json .*\(0{12}\)"):
            run(trained, seed=next(seeds))
        for document in (own, {}):  # the second one of an earlier version
            write_json(record, document)
            run(trained, seed=next(seeds))
    finally:
        record.unlink()


def test_state_is_kept_after_a_failure_and_removed_when_all_is_done(trained: Project, monkeypatch):
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    attacks, state = (autoattack_spec(),), trained.root / ".state"
    alone = read_record(run(trained, attacks=attacks)[0])
    record = trained.root / trained.spec.record("autoattack")
    record.unlink()
    perturb = module._perturb

    def fail_at_square(runner, name, *rest):
        if name == "square":
            raise UserError("planted")
        return perturb(runner, name, *rest)

    monkeypatch.setattr(module, "_perturb", fail_at_square)
    with pytest.raises(UserError, match="planted"):
        run(trained, attacks=attacks)
    left = sorted(state.rglob("*.pt"))
    assert left
    run(trained)  # the cheap attacks on the same checkpoint leave it alone
    assert sorted(state.rglob("*.pt")) == left
    names = []
    monkeypatch.setattr(
        module, "_perturb", lambda *given: names.append(given[1]) or perturb(*given)
    )
    again = read_record(run(trained, attacks=attacks)[0])
    assert set(names) == {"square"}
    assert again.robust_bits == alone.robust_bits
    assert list(again.parts) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(state.rglob("*.pt")) == []


def test_a_folder_in_use_is_removed_by_who_leaves_last(tmp_path: Path):
    state = tmp_path / "a" / "b"
    with shared_folder(state):
        (state / "batch.pt").touch()
        with shared_folder(state):
            clear_folder(state)
            assert len(list(state.glob("worker-*.lock"))) == 2
        assert (state / "batch.pt").exists()
    assert not state.exists()
    with pytest.raises(UserError), shared_folder(state):
        raise UserError("planted")
    assert state.exists()
    clear_folder(state)
    assert not state.exists()


def test_who_comes_when_others_are_done_starts_nothing(trained: Project, monkeypatch):
    """The cheap attacks take a while; another process may finish AutoAttack meanwhile."""
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    attacks = (*trained.spec.attacks, autoattack_spec())
    evaluate = jobs.evaluate

    def slowly(*given, **options):
        evaluate(*given, **options)
        monkeypatch.setattr(jobs, "evaluate", evaluate)
        run(trained, attacks=attacks[-1:])
        monkeypatch.setattr(module, "_perturb", None)

    monkeypatch.setattr(jobs, "evaluate", slowly)
    assert len(run(trained, attacks=attacks)) == 3
    assert list((trained.root / ".state").rglob("*.pt")) == []


def test_a_part_has_every_class_and_is_named_in_the_record(trained: Project, images: ImageSet):
    by_class = images.select(images.labels.argsort())  # as image folders lie
    by_class.save(trained.root / "data" / "digits" / "test.pt")
    record = read_record(run(trained, num_examples=20)[0])
    assert record.num_examples == 20
    assert record.part is not None
    taken = by_class.select(torch.from_numpy(unpack(record.part.mask, 40)).nonzero().flatten())
    assert min(taken.class_counts()) >= 1
    assert (record.part.rule, record.part.size, record.part.of) == ("stratified", 20, 40)
    assert read_record(run(trained, num_examples=20, part_seed=1)[0]).part != record.part
    with pytest.raises(UserError, match="expected at least 99 images, got 40"):
        run(trained, num_examples=99)
    with pytest.raises(UserError, match="every class among first_examples: 20, got none of class"):
        run(trained, first_examples=20)


def test_the_first_in_the_published_order_have_their_own_name(trained: Project, images: ImageSet):
    record = read_record(run(trained, first_examples=30)[0])
    assert record.part is not None
    assert unpack(record.part.mask, 40).tolist() == [True] * 30 + [False] * 10


def test_network_of_another_data_set(trained: Project):
    color = NETWORK | {"num_classes": 7}
    with torch.random.fork_rng():
        model = small_network()
    model.linear = torch.nn.Linear(4, 7)
    save_network(trained.checkpoint, model, network=color, epoch=0)
    with pytest.raises(UserError, match="1 channels and 10 classes, got 1 and 7"):
        run(trained)


def test_missing_files(trained: Project):
    trained.checkpoint.unlink()
    with pytest.raises(UserError, match="expected a checkpoint, found no file"):
        run(trained)
    (trained.root / "data" / "digits" / "test.pt").unlink()
    with pytest.raises(UserError, match="fetch the data"):
        run(trained)


def test_no_record_of_an_attack_that_did_not_finish(trained: Project, monkeypatch):
    def fail(*_):
        raise UserError("planted")

    monkeypatch.setattr(module, "_perturb", fail)
    attacks = (*trained.spec.attacks, autoattack_spec())
    with pytest.raises(UserError, match="planted"):
        run(trained, attacks=attacks)
    written = {path.name for path in (trained.checkpoint.parent / "evaluation/best").iterdir()}
    assert written == {"natural.json", "pgd-20.json"}


def test_attacks_may_look_at_fewer_images_each(trained: Project, images: ImageSet):
    fewer = trained.spec.attacks[1].replace(num_examples=20)
    paths = run(trained, num_examples=30, attacks=(trained.spec.attacks[0], fewer))
    natural, pgd = map(read_record, paths)
    assert natural.part is not None
    assert pgd.part is not None
    assert (natural.num_examples, pgd.num_examples, pgd.part.of) == (30, 20, 40)
    taken, more = unpack(pgd.part.mask, 40), unpack(natural.part.mask, 40)
    assert not (taken & ~more).any()
    cut, same = on_common_images([natural, pgd])
    assert same == pgd
    assert cut.part == pgd.part
    assert clean_flags(cut).tolist() == clean_flags(pgd).tolist()  # of the same images, in order
    assert (worst_case([natural, pgd]) == robust_flags(pgd)).all()
    before = [path.stat().st_mtime_ns for path in paths]
    run(trained, num_examples=30, attacks=(trained.spec.attacks[0], fewer))
    assert before == [path.stat().st_mtime_ns for path in paths]


def test_parts_that_do_not_lie_in_each_other_are_not_compared(trained: Project):
    first = read_record(run(trained, num_examples=20)[0])
    other = read_record(run(trained, num_examples=21, part_seed=1)[1])
    with pytest.raises(UserError, match="expected parts of the images that lie in each other"):
        on_common_images([first, other])
