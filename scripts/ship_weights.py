"""Add a run's weights to those that ship with the package.

    python scripts/ship_weights.py FILE PRESET --tag TAG --trained-on TEXT

Writes weights/PRESET.safetensors in float16 and enters it into weights/manifest.json; write its
model card, weights/PRESET.md, by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import tyro

from hear_axlstm import checkpoints
from hear_axlstm.checkpoints.authors.published import TAG
from hear_axlstm.checkpoints.checksum import sha256
from hear_axlstm.checkpoints.model_card import without_paths
from hear_axlstm.checkpoints.resolve import RANDOM
from hear_axlstm.config import preset
from hear_axlstm.files import write_text
from hear_axlstm.models.pretraining import MaskedPatchModel

FOLDER = Path(__file__).parents[1] / "weights"


def main(
    file: tyro.conf.Positional[Path],
    name: tyro.conf.Positional[str],
    *,
    tag: str,
    trained_on: str,
    license: str = "CC-BY-SA-4.0",
) -> None:
    """Ship the weights in a file as those of a preset.

    Args:
        file: model.safetensors of a pretraining run.
        name: Preset that it was trained as.
        tag: Tag of the weights in their full name, PRESET.TAG, such as open7h.
        trained_on: Training data in a few words, for `axlstm weights list`.
        license: SPDX name of the weights' license.
    """
    if not tag.isalnum() or tag in (TAG, RANDOM):
        raise SystemExit(f"tag={tag!r}: use letters and digits, and neither {TAG} nor {RANDOM}")
    config, training, tensors = checkpoints.read(file)
    if config != preset(name):
        raise SystemExit(f"{file} was trained with other settings than {name}: {config}")
    model = MaskedPatchModel(config)
    checkpoints.fill(model, tensors, file)
    shipped = FOLDER / f"{name}.safetensors"
    checkpoints.save(shipped, model, without_paths(training), torch.float16)
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    manifest["weights"][name] = {
        "tag": tag,
        "file": shipped.name,
        "sha256": sha256(shipped),
        "license": license,
        "card": f"{name}.md",
        "trained_on": trained_on,
    }
    write_text(FOLDER / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    print(f"{shipped}: {shipped.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    tyro.cli(main)
