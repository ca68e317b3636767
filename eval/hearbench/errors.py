"""The base of all errors that a user can fix."""


class HearbenchError(Exception):
    """Raised for what a user can fix; the message names the remedy."""
