"""Mistakes of the user, told in one line: where, what was expected, what was got, what to do.

`stages.cli.main` prints them and exits with 1; every other exception keeps its traceback, because it is ours.
"""


class UserError(ValueError):
    """A mistake that the user can mend.

    `where` names a file, a parameter or a column; `remedy` says what to do next.
    """

    def __init__(self, where: object, *, expected: object, got: object, remedy: str) -> None:
        self.where = str(where)
        super().__init__(f"{where}: expected {expected}, got {got}; {remedy}")


class ParameterError(UserError):
    """A parameter that is unknown, missing, mistyped or out of range."""

    def __init__(self, where: object, *, expected: object, got: object, remedy: str = "fix params.yaml") -> None:
        super().__init__(where, expected=expected, got=got, remedy=remedy)


class DataError(UserError):
    """Input data that is empty, unreadable or of the wrong shape."""


class ModelError(UserError):
    """A model that cannot be had, or that does not fit its partner."""


class StoreError(UserError):
    """A segment that is damaged, or that another teacher or configuration wrote."""
