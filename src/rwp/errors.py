"""The one exception that means: the user can fix this; and errors of others in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator

# How torch says that memory is used up: on a CPU, on a GPU, for a file that is mapped.
_MEMORY = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory")
# What reading a damaged file may give as well: a place before its start, a folder or nothing there.
_OF_THE_FILE = (None, errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class UserError(Exception):
    """Bad input. Its text is one line: what was expected, what was found, what to do."""


class OwnCodeError(UserError):
    """Code of the user's own failed. Of several processes perhaps one alone meets it."""


def in_one_line(error: BaseException, *, named: bool = True, longest: int | None = 300) -> str:
    """What an error says, without line breaks and cut to what fits.

    Args:
        error: most often of somebody else's code.
        named: whether the name of its type comes first.
        longest: characters that are kept, none for all.
    """
    text = " ".join((f"{type(error).__name__}: {error}" if named else str(error)).split())
    return text if longest is None or len(text) <= longest else f"{text[:longest]}..."


def lacks_memory(error: BaseException) -> bool:
    """Whether memory was used up, as Python or torch says it."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in _MEMORY)


def passing_cause(error: BaseException | None) -> BaseException | None:
    """What says nothing about a file that could not be read, among an error and those behind it.

    A disk that does not answer, no permission, too little memory: the file may be whole.
    """
    for cause in _chain(error):
        unread = isinstance(cause, OSError) and cause.errno not in _OF_THE_FILE
        if unread or lacks_memory(cause):
            return cause
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
