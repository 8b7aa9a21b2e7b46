"""Arithmetic as a named setting: fp32, tf32 or bf16."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch

from rwp.core.settings import Precision, check_choice


@contextmanager
def precision_context(name: Precision, device: torch.device | str) -> Iterator[None]:
    """Run the networks inside in a precision; the settings found are put back.

    "fp32": 32 bits throughout (torch's own default lets convolutions on NVIDIA GPUs use
    TF32). "tf32": inner products of NVIDIA GPUs may round their factors to TF32. "bf16":
    bf16 autocast, TF32 for what stays in 32 bits. Losses and weight perturbations are computed
    in 32 bits under each of them. A model in 64 bits stays in 64 bits under "fp32". CPUs that
    could round factors to bf16 or TF32 do not: `torch.set_float32_matmul_precision` of a user's
    code has no say inside.

    Raises:
        ValueError: another name.
    """
    check_choice("precision", name, get_args(Precision))
    backends: Any = torch.backends
    on_gpu = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    on_cpu = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn)
    found = [(backend, backend.fp32_precision) for backend in (*on_gpu, *on_cpu)]
    for backend, _ in found:
        backend.fp32_precision = "tf32" if name != "fp32" and backend in on_gpu else "ieee"
    kind = torch.device(device).type
    kind = kind if torch.amp.is_autocast_available(kind) else "cpu"  # meta has none
    try:
        with torch.autocast(kind, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        for backend, setting in found:
            backend.fp32_precision = setting


@contextmanager
def autotuned_convolutions(device: torch.device | str) -> Iterator[None]:
    """Let an NVIDIA GPU try the algorithms of each convolution once and keep the fastest.

    For batches of one size: every new size is tried anew. The setting found is put back. Not
    where deterministic algorithms were asked for: which algorithm is fastest differs each time.
    """
    backend = torch.backends.cudnn
    found = backend.benchmark
    wanted = found or torch.device(device).type == "cuda"
    backend.benchmark = wanted and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        backend.benchmark = found


def flush_denormals() -> bool:
    """Let the CPU treat numbers too small for full precision as zero; call where training starts.

    They appear late in training and slow some processors tenfold. Threads that exist already
    keep their setting, so call it early.

    Returns:
        Whether the processor can.
    """
    return torch.set_flush_denormal(True)
