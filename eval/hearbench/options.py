"""How settings appear as options of commands."""

from __future__ import annotations

from typing import Any

import tyro


def option(metavar: str) -> Any:
    """Annotation of an option without a default, or whose help text describes it.

    Args:
        metavar: name of the value in the help.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")
