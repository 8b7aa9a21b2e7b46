"""A plugin of pytest: every call into rwp.core has its shapes and types checked.

`python -m pytest -p tests.core.typechecker tests/core` loads it before anything imports rwp.core;
what is imported already would stay unchecked. A slow test of test_core_shapes.py runs it.
"""

import sys

import jaxtyping
from beartype import BeartypeConf, beartype

# An int passes for a float, as elsewhere.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

assert not any(name.startswith("rwp.core") for name in sys.modules), "rwp.core stays unchecked"
jaxtyping.install_import_hook("rwp.core", f"{__name__}.checked")
