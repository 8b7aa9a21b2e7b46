"""Run by the Python of another environment, which has the robustbench package and not ours.

python robustbench_logits.py CLASS.py CLASS WEIGHTS.pt IMAGES.pt LOGITS.pt
"""

from __future__ import annotations

import importlib.util
import sys

import pyautoattack
import torch

# robustbench.eval asks for the authors' package by the name it has in their repository.
sys.modules["autoattack"] = pyautoattack

source, name, weights, images, logits = sys.argv[1:]
specification = importlib.util.spec_from_file_location("submission", source)
module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(module)
model = getattr(module, name)().eval()
model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
with torch.no_grad():
    torch.save(model(torch.load(images, weights_only=True)), logits)
print(type(model).__mro__[1].__module__)
