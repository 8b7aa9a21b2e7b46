"""The benchmarks run and write what they promise, here on a small network."""

import json

import pytest
import torch
from benchmarks import bench_epoch, bench_steps, run
from tests.core.helpers import small_network

from rwp.core import build_network


@pytest.fixture
def small_problem(monkeypatch):
    def network(device):
        torch.manual_seed(0)
        shape = {"blocks": (1, 1), "width": 8, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        return build_network("preact_resnet", num_classes=10, in_channels=3, **shape).train()

    for module in (bench_steps, bench_epoch):
        monkeypatch.setattr(module, "network", network)
    monkeypatch.setattr(bench_steps, "BATCH", {"cpu": 4})
    monkeypatch.setattr(bench_steps, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr(bench_epoch, "SIZES", {"cpu": (8, 4, 4)})
    monkeypatch.setattr(run, "flush_denormals", lambda: True)


@pytest.mark.slow
def test_bench_json(small_problem, tmp_path, capsys):
    output = tmp_path / "bench.json"
    output.write_text(json.dumps({"kept": {"ratio": 1.0}}))
    arguments = ["steps", "epochs", "fast_epochs", "--device", "cpu", "--repetitions", "1"]
    assert run.main([*arguments, "--output", str(output)]) == 0
    entries = json.loads(output.read_text())
    steps = {"step_fp32_all_perturbed", "step_fp32_mask_empty", "step_fp32_at", "step_fp32_at_awp"}
    assert entries.keys() == steps | {"epoch", "epoch_at", "epoch_at_awp", "kept"}
    for name in entries.keys() - {"kept"}:
        entry = entries[name]
        assert {"ours_s", "reference_s", "ratio", "machine"} <= entry.keys()
        assert entry["ratio"] == pytest.approx(entry["reference_s"] / entry["ours_s"])
        assert f"torch {torch.__version__}" in entry["machine"]
    worst = entries["step_fp32_all_perturbed"]
    assert worst["units_floor"] == 53
    assert worst["units_ours"] <= 53 < 60 < worst["units_reference"] <= 64
    assert "target 2.5x" in capsys.readouterr().out


def test_an_unknown_benchmark_is_named(capsys):
    with pytest.raises(SystemExit):
        run.main(["speed"])
    assert "speed: expected one of steps, epochs" in capsys.readouterr().err


def test_the_small_network_is_in_channels_last(batch):
    """The memory format the benchmarks use survives an attack."""
    from tests.core.helpers import generator

    from rwp.core import ThreatModel, pgd

    network = small_network().to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    for norm in ("linf", "l2"):
        found = pgd(
            network,
            images,
            batch.labels,
            threat=ThreatModel(norm, 0.1),
            step_size=0.1,
            num_steps=1,
            generator=generator(),
        )
        assert found.is_contiguous(memory_format=torch.channels_last)
