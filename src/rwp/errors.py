"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """Bad input. Its text is one line: what was expected, what was found, what to do."""
