"""MAEB, the audio benchmark of mteb (arXiv 2602.16008): an encoder and its metadata.

model = load_encoder("axlstm_tiny")
mteb.evaluate(model, tasks=mteb.get_benchmark("MAEB(v1, audio-only)"))
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from numpy.typing import NDArray

import hear_axlstm
from hear_axlstm import load_model
from hear_axlstm.checkpoints import manifest
from hear_axlstm.checkpoints.authors.published import PUBLISHED
from hear_axlstm.checkpoints.resolve import shipped_name
from hear_axlstm.config import PRESETS, ModelConfig
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.progress import Progress

AUDIOSET = {"AudioSet", "AudioSetMini"}  # mteb's names
CITATION = """@inproceedings{yadav2025axlstms,
  title={AxLSTMs: learning self-supervised audio representations with xLSTMs},
  author={Yadav, Sarthak and Theodoridis, Sergios and Tan, Zheng-Hua},
  booktitle={Interspeech},
  year={2025}
}"""


class AxLSTMEncoder(AbsEncoder):
    """Scene embeddings under mteb's interface.

    Clips of different lengths share a batch: padding never changes an embedding.

    Args:
        model_name: name, file, folder or hub address, as for `hear_axlstm.load_model`.
        revision: ignored; the metadata has the package's version and a hash of weights and
            settings, so that mteb never takes the results of one training for those of another.
        device: torch device, by default the CPU.
    """

    def __init__(
        self, model_name: str = "", revision: str | None = None, device: str | None = None
    ) -> None:
        self.model = load_model(model_name).to(device or "cpu")
        revision = f"{hear_axlstm.__version__}+{self.model.fingerprint()[:16]}"
        self.mteb_model_meta = model_meta(model_name, self.model.config, revision)

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
        scenes = []
        for batch in Progress(inputs, "embedding", disable=quiet):
            scenes.append(self.model.embed(batch["audio"]))
        return np.concatenate(scenes)


def load_encoder(model: str = "", device: str | None = None) -> AxLSTMEncoder:
    """An encoder for ``mteb.evaluate``, by any name that `hear_axlstm.load_model` accepts."""
    return AxLSTMEncoder(model, device=device)


def model_metas() -> list[ModelMeta]:
    """The metadata of all named weights, shipped and downloadable; nothing is downloaded."""
    names = [*map(shipped_name, manifest()["weights"]), *PUBLISHED]
    version = hear_axlstm.__version__
    return [model_meta(name, PRESETS[name.partition(".")[0]], version) for name in names]


def model_meta(name: str, config: ModelConfig, revision: str) -> ModelMeta:
    """Metadata that mteb records about a model.

    Args:
        name: as for `hear_axlstm.load_model`.
        config: settings of the model.
        revision: what tells its results from those of other weights of this name.
    """
    name = name or manifest()["default"]
    shipped = {*manifest()["weights"], *map(shipped_name, manifest()["weights"])}
    with torch.device("meta"):
        model = Embedder(config)
    parameters = sum(p.numel() for p in model.parameters())
    return ModelMeta(
        loader=AxLSTMEncoder,
        name=f"hear_axlstm/{name.replace('/', '_')}",
        revision=revision,
        release_date=None,
        languages=None,
        n_parameters=parameters,
        n_embedding_parameters=0,
        memory_usage_mb=round(4 * parameters / 2**20, 1),
        max_tokens=float("inf"),
        embed_dim=model.scene_embedding_size,
        license=_license(name),
        open_weights=True,
        public_training_code="https://github.com/SarthakYadav/axlstm-official",
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=AUDIOSET if name in PUBLISHED else set() if name in shipped else None,
        modalities=["audio"],
        citation=CITATION,
    )


def _license(name: str) -> str | None:
    """The license of named weights, in lower case as on the Hugging Face hub."""
    shipped = manifest()["weights"]
    by_name = {weights.name: weights.license for weights in PUBLISHED.values()}
    for preset, entry in shipped.items():
        by_name |= dict.fromkeys((preset, shipped_name(preset)), entry["license"])
    found = by_name.get(name)
    return found and found.lower()
