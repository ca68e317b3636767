"""Errors that a user can fix; their messages name the remedy."""


class HearbenchError(Exception):
    """Base class of all errors of hearbench."""


class WeightsError(HearbenchError, ValueError):
    """Raised for published weights that can't be fetched."""
