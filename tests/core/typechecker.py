"""The type checker of these tests: beartype, with an int passing for a float as elsewhere."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
