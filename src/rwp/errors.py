"""The one exception that means: the user can fix this; and errors of others in one line."""


class UserError(Exception):
    """Bad input. Its text is one line: what was expected, what was found, what to do."""


def in_one_line(error: BaseException, *, named: bool = True, longest: int | None = 300) -> str:
    """What an error says, without line breaks and cut to what fits.

    Args:
        error: most often of somebody else's code.
        named: whether the name of its type comes first.
        longest: characters that are kept, none for all.
    """
    text = " ".join((f"{type(error).__name__}: {error}" if named else str(error)).split())
    return text if longest is None or len(text) <= longest else f"{text[:longest]}..."
