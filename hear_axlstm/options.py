"""How settings appear as options of commands."""

from __future__ import annotations

from typing import Any

import tyro

POOLINGS = "{mean,mean_std}"


def option(metavar: str) -> Any:
    """Annotation of an option with default None whose help text describes the default.

    Args:
        metavar: name of the value in the help.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")
