"""Published checkpoints of the paper's other systems, with sources and licenses.

Addresses and names are those of the authors' READMEs and code. Nothing here was downloaded: whether
a Drive folder holds a run under exactly this name is not known, so runs are looked for by a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

DRIVE_FOLDERS = "https://drive.google.com/drive/folders/"


@dataclass(frozen=True)
class Weights:
    """One published checkpoint: a file, or a training run's folder."""

    name: str
    """Name for `hearbench weights get`."""
    system: str
    """Name in `hearbench.systems.catalog`."""
    file: str
    """Official name of the file, or prefix of the run folder's name."""
    license: str
    """License: an SPDX identifier, or a name."""
    page: str
    """Web page that links to it."""
    row: str = ""
    """Its row in the paper's Table 2, if any."""
    url: str = ""
    """Address of the file itself."""
    drive_file: str = ""
    """Id of a file on Google Drive."""
    drive_folder: str = ""
    """Id of the Google Drive folder that holds the run."""
    hub: str = ""
    """Name on the Hugging Face hub, which transformers downloads by itself."""
    sha256: str = ""
    """Published checksum, if known."""
    also: str = ""
    """Alternative prefix of the run folder's name."""
    note: str = ""

    def is_called(self, name: str) -> bool:
        """Whether a file, or a run's folder or zip, has the official name."""
        if not self.is_run:
            return name == self.file
        name = name.lower()
        return name.startswith(self.file) or bool(self.also and name.startswith(self.also))

    @property
    def is_run(self) -> bool:
        """Whether it is a folder."""
        return bool(self.drive_folder)

    @property
    def host(self) -> str:
        """Server of the download."""
        return urlsplit(self.url).hostname or "drive.google.com"

    @property
    def is_non_commercial(self) -> bool:
        """Whether the license forbids commercial use."""
        return "-NC" in self.license

    @property
    def can_be_fetched(self) -> bool:
        """Whether `hearbench weights get` downloads it."""
        return bool(self.url or self.drive_file or self.drive_folder)


def _ssast(size: str, kind: str, key: str, row: str = "") -> Weights:
    file = f"SSAST-{size}-{kind}-400.pth"
    return Weights(
        name=f"ssast-{size.lower()}-{kind.lower()}",
        system="ssast",
        file=file,
        license="BSD-3-Clause",
        page="https://github.com/YuanGongND/ssast",
        row=row,
        url=f"https://www.dropbox.com/s/{key}/{file}?dl=1",
    )


def _ssam(size: str) -> Weights:
    return Weights(
        name=f"ssam-{size}",
        system="ssam",
        file=f"ssam_{size}_200_16x4",
        license="MIT",
        page=f"{DRIVE_FOLDERS}1l6_8e1TFEfnobwUMIbA7-aKw2FwlBhho",
        row=f"SSAM-{size.title()}",
        drive_folder="1l6_8e1TFEfnobwUMIbA7-aKw2FwlBhho",
        also=f"mamba_ssast_{size}_200_16x4",
        note=f"also mamba_ssast_{size}_* in the authors' README",
    )


def _mwmae(size: str) -> Weights:
    return Weights(
        name=f"mwmae-{size}",
        system="mwmae",
        file=f"mwmae_{size}_200_4x16",
        license="Apache-2.0",
        page=f"{DRIVE_FOLDERS}1tM723MLFJRaWVmLVjE49pJ0Yi3lpMZHV",
        row=f"MWMAE-{size.title()}",
        drive_folder="1tM723MLFJRaWVmLVjE49pJ0Yi3lpMZHV",
        note="may not be published" if size == "tiny" else "",
    )


_AUDIOMAE = Weights(
    name="audiomae",
    system="audiomae",
    file="pretrained.pth",
    license="CC-BY-NC-4.0",
    page="https://github.com/facebookresearch/AudioMAE",
    row="AudioMAE",
    drive_file="1rRsmU8x7D-x4BvcPyroUJwU18eixNfKg",
)
_HUB = Weights(
    name="wav2vec2-large",
    system="huggingface",
    file="",
    license="Apache-2.0",
    page="https://huggingface.co/facebook/wav2vec2-large-100k-voxpopuli",
    row="W2V2-large",
    hub="facebook/wav2vec2-large-100k-voxpopuli",
)

CHECKPOINTS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name="passt",
            system="passt",
            file="passt-s-f128-p16-s10-ap.476-swa.pt",
            license="Apache-2.0",
            page="https://github.com/kkoutini/PaSST/releases",
            row="PaSST-Base",
            url="https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/"
            "passt-s-f128-p16-s10-ap.476-swa.pt",
            sha256="302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c",
        ),
        _HUB,
        replace(
            _HUB,
            name="wavlm-large",
            license="MIT",
            page="https://huggingface.co/microsoft/wavlm-large",
            row="WavLM-large",
            hub="microsoft/wavlm-large",
        ),
        replace(
            _HUB,
            name="hubert-large",
            page="https://huggingface.co/facebook/hubert-large-ll60k",
            row="HuBERT-large",
            hub="facebook/hubert-large-ll60k",
        ),
        Weights(
            name="beats",
            system="beats",
            file="BEATs_iter3.pt",
            license="MIT",
            page="https://github.com/microsoft/unilm/tree/master/beats",
            row="BEATs-iter3",
            # a shared access signature that the authors publish, valid to the year 3022
            url="https://msranlcmtteamdrive.blob.core.windows.net/share/BEATs/BEATs_iter3.pt"
            "?sv=2020-08-04&st=2022-12-18T10%3A38%3A57Z&se=3022-12-19T10%3A38%3A00Z&sr=b&sp=r"
            "&sig=Zo2EeinTCJsm4sH%2FjR03eYPdfT%2BLd0LBn%2FYIhj7ZQ7E%3D",
        ),
        _AUDIOMAE,
        replace(
            _AUDIOMAE,
            name="audiomae-finetuned",
            file="finetuned.pth",
            row="",
            drive_file="1dacJa-XcaoLPZf--mLvzSdlzo5iMX2ST",
        ),
        Weights(
            name="msm-mae",
            system="msm_mae",
            file="checkpoint-100.pth",
            license="NTT evaluation license",
            page="https://github.com/nttcslab/msm-mae/releases",
            row="MSM-MAE-208",
            note="80x208p16x16_0422; its license must be accepted by the person who downloads it",
        ),
        *map(_mwmae, ("tiny", "base")),
        *map(_ssam, ("tiny", "small", "base")),
        _ssast("Base", "Patch", "ewrzpco95n9jdz6", row="SSAST"),
        _ssast("Small", "Patch", "i24w446rl9pkf05"),
        _ssast("Tiny", "Patch", "fkbtf78y94113wz"),
        _ssast("Base", "Frame", "nx6nl4d4bl71sm8"),
        _ssast("Tiny", "Frame", "rx7g60ruzawffzv"),
    )
}
"""Every checkpoint by name, in the order of Table 2."""


def find(folder: Path, wanted: Iterable[Weights] = CHECKPOINTS.values()) -> dict[Weights, Path]:
    """The checkpoints anywhere in a folder, under their official names.

    Of several files with one name, the least deeply nested one is used; of several runs, the first
    by name. Hidden folders, such as those of unfinished downloads, are left out.
    """
    visible = (
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    paths = sorted(visible, key=lambda path: (len(path.parts), path.name))
    found: dict[Weights, Path] = {}
    for weights in wanted:
        if path := next((path for path in paths if _is(weights, path)), None):
            found[weights] = path
    return found


def _is(weights: Weights, path: Path) -> bool:
    """Whether a path is what these weights are called officially."""
    if weights.is_run:
        return weights.is_called(path.name) and path.is_dir()
    if weights.hub:  # as `save_pretrained` or a clone of the hub's repository leaves it
        return path.name == Path(weights.hub).name and (path / "config.json").is_file()
    return weights.can_be_fetched and weights.is_called(path.name) and path.is_file()
