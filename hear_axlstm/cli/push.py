"""`axlstm push`: publish weights and their model card on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro

from hear_axlstm import checkpoints
from hear_axlstm.checkpoints import hub
from hear_axlstm.checkpoints.authors.reference_release import is_release
from hear_axlstm.checkpoints.format import save_tensors, stored_dtype
from hear_axlstm.checkpoints.model_card import read_scores, without_paths, write_card
from hear_axlstm.options import option


def push(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")],
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ORG/REPO")],
    *,
    license: Annotated[str | None, option("LICENSE")] = None,
    scores: Annotated[Path | None, option("CSV")] = None,
    system: Annotated[str | None, option("LABEL")] = None,
    card: Annotated[Path | None, option("FILE")] = None,
    private: bool = False,
    dry_run: bool = False,
) -> None:
    """Publish weights on the Hugging Face hub, with a model card.

    Args:
        weights: Run folder, file or name of weights.
        repo: Destination, as org/repo; it is created if it does not exist.
        license: License of the weights, as the hub names it, e.g. cc-by-4.0.
        scores: results.csv of `hearbench run`, for the card and its metadata.
        system: Label of the weights in that file, if it holds several systems.
        card: Your own model card, instead of the generated one.
        private: Make a new repository private.
        dry_run: Only print the model card.
    """
    if not re.fullmatch(hub.REPO, repo):
        raise ValueError(f"repo={repo!r} must have the form org/repo")
    path = checkpoints.locate(weights)
    if is_release(path):
        raise ValueError(f"{path} is not in this package's format: use `axlstm convert` first")
    config, training, tensors = checkpoints.read(path)
    training = without_paths(training)
    if card:
        text = card.read_text(encoding="utf-8")
    else:
        results = read_scores(scores, system) if scores else None
        text = write_card(repo, config, training, tensors, license, results)
    if dry_run:
        print(text)
        return
    with TemporaryDirectory() as folder:
        # A copy without the state of an optimizer and the paths of this machine
        public, dtype = Path(folder, checkpoints.FILE_NAME), stored_dtype(path)
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        save_tensors(public, config, training, tensors)
        readme = text.encode()
        contents: dict[str, Path | bytes] = {checkpoints.FILE_NAME: public, "README.md": readme}
        page = hub.upload(repo, contents, f"Upload {config.architecture} weights", private)
    print(f"published: {page}\nnext: load_model('{hub.SCHEME}{repo}') in Python")
