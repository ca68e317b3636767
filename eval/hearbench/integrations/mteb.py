"""MAEB, the audio benchmark of mteb (arXiv 2602.16008), for any module behind the HEAR API.

encoder = load_encoder("beats@BEATs_iter3.pt")
mteb.evaluate(encoder, tasks=mteb.get_benchmark("MAEB(v1, audio-only)"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from numpy.typing import NDArray

from hearbench.embed.model import HearModel
from hearbench.progress import Progress
from hearbench.systems.fingerprint import Fingerprint, fingerprint_of, hear_modules
from hearbench.systems.specs import parse_system


class HearEncoder(AbsEncoder):
    """Scene embeddings under mteb's interface.

    Only clips of equal length share a call: padding would change the embeddings of most systems.

    Args:
        model_name: as for `hearbench run --systems`.
        revision: ignored.
        device: torch device, by default the CPU; TensorFlow chooses its own.

    Raises:
        SystemSpecError: if the system can't be loaded.
        EmbeddingError: if it is a model of neither torch nor TensorFlow.
    """

    def __init__(
        self, model_name: str, revision: str | None = None, device: str | None = None
    ) -> None:
        system = parse_system(model_name)
        self.hear = HearModel(system, device=device or "cpu")
        self.model = self.hear.model
        # of other files, it depends on the systems loaded before which of them are imported
        files = [part.__file__ for part in hear_modules(self.hear.module, self.model)]
        sources = tuple(Path(file) for file in files if file)
        found = fingerprint_of(system, self.hear.module, self.model, sources)
        self.mteb_model_meta = model_meta(system.label, self.model, found)

    def encode(self, inputs: Any, **options: Any) -> NDArray[np.float32]:
        """Embed the clips of a loader.

        Args:
            inputs: mteb's loader; each batch has ``audio``, a list of dictionaries with ``array``
                and ``sampling_rate``.
            options: mteb's; only ``show_progress_bar`` is used.

        Returns:
            float32 ``[clips, width]``.
        """
        inputs.collate_fn = lambda rows: {"audio": [row["audio"] for row in rows]}
        quiet = not options.get("show_progress_bar", True)
        batches = Progress(inputs, desc="embedding", disable=quiet)
        return np.concatenate([self._embed(batch["audio"]) for batch in batches])

    def _embed(self, clips: list[Mapping[str, Any]]) -> NDArray[np.float32]:
        waves = [self._wave(clip) for clip in clips]
        by_length: dict[int, list[int]] = {}
        for index, wave in enumerate(waves):
            by_length.setdefault(len(wave), []).append(index)
        rows: list[Any] = [None] * len(waves)
        for indices in by_length.values():
            scenes = self.hear.scenes(np.stack([waves[index] for index in indices]))
            for index, scene in zip(indices, scenes.astype(np.float32), strict=True):
                rows[index] = scene
        return np.stack(rows)

    def _wave(self, clip: Mapping[str, Any]) -> NDArray[np.float32]:
        """One channel at the model's rate."""
        wave = np.asarray(clip["array"], dtype=np.float32)
        if wave.ndim == 2:  # [channels, samples], as in datasets
            wave = wave.mean(axis=0)
        rate = int(clip["sampling_rate"])
        if rate != self.model.sample_rate:
            wave = soxr.resample(wave, rate, self.model.sample_rate, quality="HQ")
        return np.ascontiguousarray(wave, dtype=np.float32)


def load_encoder(spec: str, device: str | None = None) -> HearEncoder:
    """An encoder for ``mteb.evaluate``: a name, NAME@CHECKPOINT or MODULE@CHECKPOINT."""
    return HearEncoder(spec, device=device)


def model_meta(label: str, model: Any, found: Fingerprint) -> ModelMeta:
    """Metadata that mteb records about a system; it keeps results by name and revision."""
    parameters = found.parameters if isinstance(model, torch.nn.Module) else None
    return ModelMeta(
        loader=HearEncoder,
        name=f"hearbench/{re.sub(r'[^A-Za-z0-9_.-]+', '-', label)}",
        revision=found.digest,
        release_date=None,
        languages=None,
        n_parameters=parameters,
        n_embedding_parameters=0,
        memory_usage_mb=None if parameters is None else round(4 * parameters / 2**20, 1),
        max_tokens=float("inf"),
        embed_dim=model.scene_embedding_size,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch" if isinstance(model, torch.nn.Module) else "TensorFlow"],
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=None,
        modalities=["audio"],
    )
