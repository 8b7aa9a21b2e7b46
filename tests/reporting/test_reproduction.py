"""The costs in docs/reproduction.md are those that `rwp plan` gives."""

from __future__ import annotations

import re
from pathlib import Path

from rwp.pipeline.settings import Params
from rwp.pipeline.state import results
from rwp.pipeline.steps import Steps, below
from rwp.reporting.costs import Passes
from rwp.reporting.plan import plan_jobs
from tests.conftest import ROOT

ROW = re.compile(
    r"^\| `(results/\S+)` \| (\d+) \| (\d+) \| ([\d,.]+) \| ([\d,.]+) \|$", re.MULTILINE
)


def test_the_costs_in_the_docs(params: Params, tmp_path: Path) -> None:
    rows = ROW.findall((ROOT / "docs/reproduction.md").read_text(encoding="utf-8"))
    assert len(rows) == 18
    for target, trainings, attacks, forward, backward in rows:
        found = results(below([Steps(params).find(target)]))
        jobs, _ = plan_jobs(params, found, root=tmp_path)
        kinds = [job.result.step.kind for job in jobs]
        passes = sum((job.passes for job in jobs if job.passes), Passes())
        assert (kinds.count("train"), kinds.count("evaluate")) == (int(trainings), int(attacks))
        assert (
            f"{passes.forward / 1e6:,.2f} {passes.backward / 1e6:,.2f}" == f"{forward} {backward}"
        )
