"""A classifier: the encoder with a head on its scene embedding, in one self-contained file.

`axlstm finetune` trains and writes it; no library beyond the package's own is needed to use it.

Shapes: B clips, n samples, D' embedding size, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hear_axlstm import checkpoints
from hear_axlstm.config import ModelConfig
from hear_axlstm.embed.embedder import Embedder

FILE_NAME = "classifier.safetensors"
HEADER_KEY = "classifier"  # among the facts about training in the header of a weights file


@dataclass(frozen=True)
class Labels:
    """What a classifier tells apart."""

    classes: tuple[str, ...]
    """Names, in the order of the logits."""
    multilabel: bool
    """Whether a clip may be of several classes, or of none: sigmoid instead of softmax."""


class Head(nn.Module):
    """Embedding to logits: standardized by fixed statistics, then one or two linear layers.

    Args:
        width: of the embedding, D'.
        classes: number of logits, C.
        hidden: width of the hidden layer; 0 makes the head linear.
        dropout: of the inputs and of the hidden layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, classes: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden:
            layers += [nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
            layers += [nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or width, classes))

    def forward(self, scene_BD: Tensor) -> Tensor:
        """``[B, D']`` -> logits ``[B, C]``."""
        return self.layers((scene_BD - self.mean) / self.std)


class Classifier(Embedder):
    """An embedder with a head; what takes an embedder takes it as well.

    Args:
        config: of the encoder.
        labels: what is told apart.
        hidden: width of the head's hidden layer, 0 for none.
        dropout: of the head, while it is trained.
    """

    def __init__(
        self, config: ModelConfig, labels: Labels, hidden: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__(config)
        self.labels, self.hidden = labels, hidden
        self.head = Head(config.embedding_size, len(labels.classes), hidden, dropout)

    @torch.no_grad()
    def probabilities(self, audio: Tensor) -> Tensor:
        """How probable each class is for each clip.

        Args:
            audio: float ``[B, n]`` in -1..1 at ``sample_rate``, on the model's device.

        Returns:
            float32 ``[B, C]``, in the order of ``labels.classes``; rows add up to 1, unless the
            classifier is multilabel.

        Raises:
            TypeError, ValueError: for audio of another kind or shape, or with NaN or infinite
                samples.
        """
        return self.to_probabilities(self.head(self.scene(audio)))

    def to_probabilities(self, logits_BC: Tensor) -> Tensor:
        """``[B, C]`` -> ``[B, C]``: softmax, or sigmoid if multilabel."""
        return logits_BC.sigmoid() if self.labels.multilabel else logits_BC.softmax(-1)

    def save(self, path: Path, training: Mapping[str, Any]) -> None:
        """Write encoder, head, class names and settings into one safetensors file, atomically.

        Args:
            path: of the file.
            training: JSON-ready facts about how it was trained.
        """
        facts = {"hidden": self.hidden, **asdict(self.labels)}
        checkpoints.save(path, self, {**training, HEADER_KEY: facts}, torch.float32)


def load_classifier(path: str | Path) -> Classifier:
    """Load a classifier on the CPU, ready for inference.

    Args:
        path: file that `axlstm finetune` wrote, or the folder of its run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds no classifier.
    """
    path = Path(path).expanduser()
    path = path / FILE_NAME if path.is_dir() else path
    config, training, tensors = checkpoints.read(path)
    if HEADER_KEY not in training:
        raise ValueError(f"{path} is an encoder without a head: make one by `axlstm finetune`")
    facts = training[HEADER_KEY]
    labels = Labels(tuple(facts["classes"]), facts["multilabel"])
    classifier = Classifier(config, labels, facts["hidden"])
    checkpoints.fill(classifier, tensors, path)
    return classifier.eval()
