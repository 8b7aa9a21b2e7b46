"""A draft searches in fewer bits and judges in 32; no table, verdict or export takes it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from rwp.errors import UserError
from rwp.evaluation import autoattack as module
from rwp.evaluation.api import evaluate
from rwp.evaluation.records import require_final
from rwp.evaluation.verdict import judge
from tests.evaluation.samples import ShortAutoAttack, attack, autoattack_spec, record

SEARCHES = {
    "fgsm": attack("fgsm"),
    "pgd": attack("pgd-4", "pgd", num_steps=4, step_size="0.03", random_start="uniform"),
    "cw": attack("cw-4", "cw", num_steps=4, step_size="0.03", kappa=10.0),
    "autoattack": autoattack_spec(),
}


class Spy(nn.Module):
    """A model that notes in which arithmetic it is asked, and whether for a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, set()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        tf32 = torch.backends.cudnn.conv.fp32_precision == "tf32"
        kind = "bf16" if logits.dtype == torch.bfloat16 else "tf32" if tf32 else "fp32"
        self.seen.add((kind, torch.is_grad_enabled() and images.requires_grad))
        return logits


@pytest.mark.parametrize("draft", [None, "tf32", "bf16"])
@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_searched_in_few_bits_is_judged_in_32(
    robust_model, images, monkeypatch, name, draft
):
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    model, spec = Spy(robust_model), SEARCHES[name].replace(draft=draft)
    some = images.images[:16].float() / 255
    found = evaluate(model, some, images.labels[:16], threat=spec.threat, attacks=[spec])
    searched = {kind for kind, gradient in model.seen if gradient}
    assert draft is None or draft in searched
    assert searched <= {draft or "fp32", "fp32"}  # "fp32": whether there is a gradient at all
    # what decides is asked without a gradient, as Square searches too
    assert ("fp32", False) in model.seen
    assert draft is None or name == "autoattack" or (draft, False) not in model.seen
    document = json.dumps(found.records[spec.name].attack.document())
    assert (f'"draft": "{draft}"' in document) == (draft is not None)
    drafts = [text for text in found.warnings if text.startswith("draft: searched in")]
    assert len(drafts) == (draft is not None)


@pytest.mark.parametrize("draft", ["tf32", "bf16"])
def test_what_autoattack_found_is_judged_in_32_bits(robust_model, images, monkeypatch, draft):
    judged, judge_them = [], module.checked_logits

    def noted(model, *given):
        conv = torch.backends.cudnn.conv.fp32_precision
        judged.append((torch.is_autocast_enabled("cpu"), conv))
        return judge_them(model, *given)

    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    monkeypatch.setattr(module, "checked_logits", noted)
    spec = SEARCHES["autoattack"].replace(draft=draft)
    some = images.images[:8].float() / 255
    evaluate(robust_model, some, images.labels[:8], threat=spec.threat, attacks=[spec])
    assert len(judged) > 4  # once for each attack
    assert not any(autocast or conv == "tf32" for autocast, conv in judged)


def test_the_default_is_no_part_of_an_attacks_identity():
    assert "draft" not in SEARCHES["pgd"].canonical()
    assert '"draft":"bf16"' in SEARCHES["pgd"].replace(draft="bf16").canonical()


@pytest.mark.parametrize("draft", ["tf32", "bf16"])
@pytest.mark.parametrize("name", SEARCHES)
def test_no_export_and_no_verdict_takes_a_draft(name, draft):
    found = record([True], attack=SEARCHES[name].replace(draft=draft))
    with pytest.raises(UserError, match=f"expected a search in fp32, got a draft in {draft}"):
        require_final(found)
    final = record([True], attack=SEARCHES["pgd"])
    with pytest.raises(UserError, match=f"expected a search in fp32, got a draft in {draft}"):
        judge([final, found], dataset="cifar10", objective="at", chance=0.1)
