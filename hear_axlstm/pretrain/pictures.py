"""Pictures of masked inputs and their reconstructions.

Shapes: B clips, T mel frames, F mel bins, N patches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hear_axlstm.files import replacing
from hear_axlstm.models.patch_embed import patchify, unpatchify
from hear_axlstm.models.pretraining import MaskedPatchModel
from hear_axlstm.wording import unformatted

TITLES = ("masked input", "reconstruction", "target")
HIDDEN_COLOR = "0.6"  # gray, which the color map does not have


@torch.no_grad()
def panels(model: MaskedPatchModel, mel_BTF: Tensor, mask_BN: Tensor) -> Tensor:
    """Compute masked input, reconstruction and target of standardized log-mel.

    The reconstruction has predicted patches where they were masked, and the input elsewhere; in the
    masked input, masked patches are NaN.

    Args:
        model: model on the device of the data.
        mel_BTF: complete windows.
        mask_BN: True where a patch is masked.

    Returns:
        float32 ``[3, B, T, F]``.
    """
    patch, grid = model.config.patch, model.config.grid
    target = patchify(mel_BTF, patch)
    hidden = mask_BN[..., None]
    masked = target.masked_fill(hidden, torch.nan)
    filled = torch.where(hidden, model.reconstruct(mel_BTF, mask_BN).float(), target)
    return torch.stack([unpatchify(x, patch, grid) for x in (masked, filled, target)])


def draw(shown: Tensor, seconds: float, title: str, path: Path) -> NDArray[np.uint8]:
    """Draw `panels` as a PNG, one row per clip.

    Args:
        shown: result of `panels`.
        seconds: length of a window.
        title: title of the picture.
        path: path of the PNG, which is written atomically.

    Returns:
        The picture, RGB ``[height, width, 3]``.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.image import imsave

    clips, _, bins = shown.shape[1:]
    figure = Figure(figsize=(11, 0.7 + 1.6 * clips), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    colors = colormaps["magma"].with_extremes(bad=HIDDEN_COLOR)
    axes = figure.subplots(clips, len(TITLES), sharex=True, sharey=True, squeeze=False)
    for row, clip in zip(axes, shown.cpu().transpose(0, 1), strict=True):
        low, high = (x.item() for x in clip[-1].aminmax())  # of the target
        for axis, mel_TF in zip(row, clip, strict=True):
            axis.imshow(
                mel_TF.T.numpy(),
                origin="lower",
                aspect="auto",
                extent=(0, seconds, 0, bins),
                cmap=colors,
                vmin=low,
                vmax=high,
                interpolation="nearest",
            )
        row[0].set_ylabel("mel bin")
    for axis, name in zip(axes[0], TITLES, strict=True):
        axis.set_title(name)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.suptitle(unformatted(title))
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        imsave(partial, picture, format="png")
    return picture
