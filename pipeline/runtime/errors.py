"""Mistakes of the user, each reported in one line: where, what was expected, what was found, and how to fix it.

`stages.cli.main` prints the line and exits with 1. Every other exception keeps its traceback, because it is a bug.
"""


class UserError(ValueError):
    """A mistake that the user can fix."""

    def __init__(self, where: object, *, expected: object, got: object, remedy: str) -> None:
        """Make the message.

        Args:
            where: A file, a parameter or a column.
            expected: What would have been right.
            got: What was found.
            remedy: What to do next.
        """
        self.where, self.expected, self.got, self.remedy = str(where), str(expected), str(got), remedy
        super().__init__(f"{where}: expected {expected}, got {got}; {remedy}")

    def at(self, place: str) -> "UserError":
        """Return the same mistake with a place after `where`."""
        return type(self)(f"{self.where} at {place}", expected=self.expected, got=self.got, remedy=self.remedy)

    @property
    def finding(self) -> str:
        """The mistake without its remedy, for a message about the file that it is in."""
        return f"{self.got} where {self.where} should be {self.expected}"


class ParameterError(UserError):
    """A parameter that is unknown, missing, mistyped or out of range."""

    def __init__(self, where: object, *, expected: object, got: object, remedy: str = "fix params.yaml") -> None:
        """Make the message, whose default remedy is to fix params.yaml."""
        super().__init__(where, expected=expected, got=got, remedy=remedy)


def require(met: bool, where: object, *, expected: object, got: object, remedy: str = "fix params.yaml") -> None:
    """Check a requirement of a parameter.

    Raises:
        ParameterError: The requirement is not met.
    """
    if not met:
        raise ParameterError(where, expected=expected, got=got, remedy=remedy)


class DataError(UserError):
    """Input data that is empty, unreadable or of the wrong shape."""


class ModelError(UserError):
    """A model that cannot be loaded, or that does not fit the other model."""


class StoreError(UserError):
    """A segment that is damaged, or that another teacher or configuration wrote."""
