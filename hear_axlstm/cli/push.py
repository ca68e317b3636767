"""`axlstm push`: a run's weights and model card onto the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

import tyro

from hear_axlstm import checkpoints
from hear_axlstm.checkpoints import hub
from hear_axlstm.checkpoints.checksum import SIDECAR, sha256
from hear_axlstm.checkpoints.model_card import write_card
from hear_axlstm.checkpoints.reference_release import is_release


def push(
    run: tyro.conf.Positional[Path],
    repo: tyro.conf.Positional[str],
    *,
    license: str | None = None,
    card: Path | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> None:
    """Publish a run's weights on the Hugging Face hub, with a model card and their checksum.

    Args:
        run: Folder of a run, or a file of weights.
        repo: Where to, as org/repo; it is made if need be.
        license: License of the weights, as the hub names it, e.g. cc-by-4.0.
        card: Model card of your own, in place of the generated one.
        private: Make a new repository private.
        dry_run: Only print the model card.
    """
    if not re.fullmatch(hub.REPO, repo):
        raise ValueError(f"repo={repo!r}: write org/repo")
    path = checkpoints.locate(str(run))
    if is_release(path):
        raise ValueError(f"{path} is not in this package's format: use `axlstm convert` first")
    config, training, tensors = checkpoints.read(path)
    text = card.read_text() if card else write_card(repo, config, training, tensors, license)
    if dry_run:
        print(text)
        return
    contents: dict[str, Path | bytes] = {
        checkpoints.FILE_NAME: path,
        f"{checkpoints.FILE_NAME}{SIDECAR}": f"{sha256(path)}  {checkpoints.FILE_NAME}\n".encode(),
        "README.md": text.encode(),
    }
    page = hub.upload(repo, contents, f"Upload {config.architecture} weights", private)
    print(f"published: {page}\nnext: load_model('{hub.SCHEME}{repo}') in Python")
