"""Early stopping: the best epoch by a validation metric, and the epochs since then."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Best:
    """The best epoch so far by a validation metric, with ties broken by the validation loss."""

    metric: str
    score: float = -math.inf
    loss: float = math.inf
    waited: int = 0
    """Epochs since then."""

    def take(self, found: dict[str, float]) -> bool:
        """Record the scores of an epoch; returns whether they are the best so far.

        Raises:
            ValueError: if the metric is not defined on the validation clips.
        """
        if math.isnan(found[self.metric]):
            raise ValueError(
                f"{self.metric} is not defined on the validation clips, which all have the same "
                "class: add others, or choose another metric"
            )
        better = (found[self.metric], -found["loss"]) > (self.score, -self.loss)
        if better:
            self.score, self.loss, self.waited = found[self.metric], found["loss"], 0
        else:
            self.waited += 1
        return better
