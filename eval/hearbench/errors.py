"""Errors that a user can fix; their messages name the remedy."""


class HearbenchError(Exception):
    """The base of them all."""


class WeightsError(HearbenchError, ValueError):
    """Raised for published weights that can't be fetched."""
