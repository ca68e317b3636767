"""Make a run's weights ship with the package: `python weights/ship.py RUN_FILE PRESET`.

Writes weights/PRESET.safetensors in float16 and enters it into the manifest; write its model card,
weights/PRESET.md, by hand.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import tyro

from hear_axlstm import checkpoints
from hear_axlstm.config import preset
from hear_axlstm.models.pretraining import MaskedPatchModel

FOLDER = Path(__file__).parent


def main(
    file: tyro.conf.Positional[Path],
    name: tyro.conf.Positional[str],
    license: str = "CC-BY-SA-4.0",
) -> None:
    """Ship the weights in `file` as the preset `name`.

    Args:
        file: model.safetensors of a pretraining run.
        name: Preset that it was trained as.
        license: SPDX name of the weights' license.
    """
    config, training, tensors = checkpoints.read(file)
    if config != preset(name):
        raise SystemExit(f"{file} was trained with other settings than {name}: {config}")
    model = MaskedPatchModel(config)
    checkpoints.fill(model, tensors, file)
    shipped = FOLDER / f"{name}.safetensors"
    checkpoints.save(shipped, model, training, torch.float16)
    manifest = checkpoints.manifest()
    manifest["weights"][name] = {
        "file": shipped.name,
        "sha256": hashlib.sha256(shipped.read_bytes()).hexdigest(),
        "license": license,
        "card": f"{name}.md",
    }
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"{shipped}: {shipped.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    tyro.cli(main)
