"""Numbers too small for full precision, which appear late in training: flushed or not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.registry import Result, Setting, benchmark

# In processes of their own: threads keep the setting they were started with.
SCRIPT = """
import sys, time, torch
from rwp.core import flush_denormals
scale, flush = float(sys.argv[1]), sys.argv[2] == "flush"
flush and flush_denormals()
inputs = torch.rand(8, 32, 32, 32) * scale
kernel = torch.rand(32, 32, 3, 3)
seconds = []
for _ in range(4):
    start = time.perf_counter()
    torch.nn.functional.conv2d(inputs, kernel, padding=1).mul_(0.5).relu_()
    seconds.append(time.perf_counter() - start)
print(min(seconds))
"""


@benchmark(order=90)
def denormals(setting: Setting) -> Iterator[Result]:
    """A convolution of denormal numbers, and beside it one of ordinary numbers."""
    if setting.device.type != "cpu":
        return
    flushed, kept, ordinary = (
        float(subprocess.check_output([sys.executable, "-c", SCRIPT, *arguments], text=True))
        for arguments in (("1e-40", "flush"), ("1e-40", "keep"), ("1.0", "keep"))
    )
    yield Result("denormals", flushed, kept, notes={"ordinary_numbers_s": ordinary})
