"""The costs in docs/reproduction.md are those that `rwp plan` gives."""

from __future__ import annotations

import re
from pathlib import Path

from rwp.pipeline.expected import expected_results
from rwp.pipeline.settings import Params
from rwp.pipeline.suites import target_needs
from rwp.reporting.passes import Passes
from rwp.reporting.plan import plan_jobs
from tests.conftest import ROOT

ROW = re.compile(
    r"^\| `(results/\S+)` \| (\d+) \| (\d+) \| ([\d,.]+) \| ([\d,.]+) \|$", re.MULTILINE
)


def test_the_costs_in_the_docs(params: Params, tmp_path: Path) -> None:
    rows = ROW.findall((ROOT / "docs/reproduction.md").read_text(encoding="utf-8"))
    assert len(rows) == 18
    for target, trainings, attacks, forward, backward in rows:
        results = expected_results(params, target_needs(params, target))
        jobs, _ = plan_jobs(params, results, root=tmp_path)
        kinds = [job.result.kind for job in jobs]
        passes = sum((job.passes for job in jobs if job.passes), Passes())
        assert (kinds.count("training"), kinds.count("record")) == (int(trainings), int(attacks))
        assert (
            f"{passes.forward / 1e6:,.2f} {passes.backward / 1e6:,.2f}" == f"{forward} {backward}"
        )
