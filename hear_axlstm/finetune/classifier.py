"""A classifier: the encoder with a head on its scene embedding, in one self-contained file.

`axlstm finetune` trains and writes it; using it needs no extra.

Shapes: B or n clips, D' embedding size, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hear_axlstm import checkpoints
from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.errors import AudioError
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.checkpoints.checksum import verify
from hear_axlstm.config import PRESETS, ModelConfig
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.inputs import Audio
from hear_axlstm.embed.scenes import iter_scenes
from hear_axlstm.ops.precision import autocast_to

CLASSIFIER_FILE = "classifier.safetensors"
CLASSIFIER_KEY = "classifier"  # among the facts about training in the header of a weights file
TRAIN = "train one with `axlstm finetune`"


@dataclass(frozen=True)
class Labels:
    """The classes of a classifier."""

    classes: tuple[str, ...]
    """Class names, in the order of the logits."""
    multilabel: bool
    """Whether a clip may have any number of classes: sigmoid instead of softmax."""


class Head(nn.Module):
    """Embedding to logits: standardization with fixed statistics, then one or two linear layers.

    Args:
        width: width of the embedding, D'.
        classes: number of logits, C.
        hidden: width of the hidden layer; 0 for a linear head.
        dropout: dropout on the inputs and the hidden layer.
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
    """An embedder with a head, with the method names of scikit-learn.

    It can be used wherever an embedder can.

    Args:
        config: settings of the encoder.
        labels: the classes.
        hidden: width of the head's hidden layer, 0 for none.
        dropout: dropout in the head during training.
    """

    def __init__(
        self, config: ModelConfig, labels: Labels, hidden: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__(config)
        self.labels, self.hidden = labels, hidden
        head = Head(config.scene_embedding_size, len(labels.classes), hidden, dropout)
        self.head = head.float()  # whatever the default dtype is

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the classes, in the order of the columns of `predict_proba`."""
        return np.array(self.labels.classes)

    @torch.no_grad()
    def predict_proba(self, audio: Audio) -> NDArray[np.float32]:
        """Return the probability of each class for each clip.

        Args:
            audio: files or samples, as for `embed_scenes`; one clip counts as a list of one.

        Returns:
            float32 ``[B, C]``, in the order of `classes_`; rows sum to 1, unless the classifier is
            multilabel.

        Raises:
            AudioError: for a file without usable audio.
            TypeError, ValueError: for other audio that can't be embedded.
        """
        scenes = torch.as_tensor(self.embed_scenes(audio), device=self.device)
        return self.to_probabilities(self.logits(torch.atleast_2d(scenes))).cpu().numpy()

    def predict(self, audio: Audio) -> NDArray[Any]:
        """Return the most probable class of each clip.

        Args:
            audio: as for `predict_proba`.

        Returns:
            Class names ``[B]``; if multilabel, bool ``[B, C]``, True for classes with a
            probability above 0.5.
        """
        probabilities = self.predict_proba(audio)
        if self.labels.multilabel:
            return probabilities > 0.5
        return self.classes_[probabilities.argmax(1)]

    def logits(self, scenes_BD: Tensor) -> Tensor:
        """Logits ``[B, C]`` of scene embeddings, in float32 even in an autocast region."""
        with autocast_to(torch.float32, self.device):
            return self.head(scenes_BD.to(self.device))

    def to_probabilities(self, logits_BC: Tensor) -> Tensor:
        """Apply softmax to logits ``[B, C]``, or sigmoid if multilabel."""
        return logits_BC.sigmoid() if self.labels.multilabel else logits_BC.softmax(-1)

    def save(self, path: Path, training: Mapping[str, Any]) -> None:
        """Write encoder, head, class names and settings to a safetensors file, atomically.

        Args:
            path: path of the file.
            training: JSON-ready facts about the training.
        """
        facts = {"hidden": self.hidden, **asdict(self.labels)}
        checkpoints.save(path, self, {**training, CLASSIFIER_KEY: facts}, torch.float32)


@checkpoints.building()
def load_classifier(path: str | Path) -> Classifier:
    """Load a classifier on the CPU, ready for inference.

    Args:
        path: file written by `axlstm finetune`, or the folder of its run.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is damaged, does not match its checksum, or has no head.
    """
    path = Path(path).expanduser()
    path = path / CLASSIFIER_FILE if path.is_dir() else path
    if str(path).partition(".")[0] in PRESETS and not path.exists():
        raise ValueError(f"{path} names an encoder without a head: {TRAIN}")
    if path.is_file():
        verify(path)
    config, training, tensors = checkpoints.read(path)
    if CLASSIFIER_KEY not in training:
        raise ValueError(f"{path} is an encoder without a head: {TRAIN}")
    facts = training[CLASSIFIER_KEY]
    labels = Labels(tuple(facts["classes"]), facts["multilabel"])
    classifier = Classifier(config, labels, facts["hidden"])
    checkpoints.fill(classifier, tensors, path)
    return classifier.infer()


def logits_of(classifier: Classifier, clips: Sequence[AudioClip]) -> Tensor:
    """Logits ``[n, C]`` on the CPU, with the classifier's current weights.

    Raises:
        AudioError: for a file without usable audio.
    """
    logits = []
    for clip, scene in iter_scenes(classifier, clips):
        if isinstance(scene, Skipped):
            raise AudioError(f"{clip.id}: {scene.reason}")
        with torch.no_grad():
            logits.append(classifier.logits(scene).cpu())
    return torch.stack(logits)
