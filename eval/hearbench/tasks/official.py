"""The ten HEAR tasks of the AxLSTM paper as data, with their sources.

Folder names, versions, durations and metrics are those of hearpreprocess 2021.1.1, numbers of clips
those of hearbenchmark.com/hear-tasks.html. The archives are on Zenodo, as 48 kHz audio: in record
5887964, to which that page links, and 6332517, a later version of it. Licenses are those of the
original datasets; `LICENSE.txt` in the record is authoritative.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mirror:
    """A server that has the archives."""

    files: str
    """URL of the folder of archives: `<files>/<archive>`."""
    listing: str = ""
    """URL of Zenodo's JSON with names, sizes and MD5 sums; empty if there is none."""


MIRRORS = tuple(
    Mirror(f"https://zenodo.org/records/{n}/files", f"https://zenodo.org/api/records/{n}/files")
    for n in (6332517, 5887964)
)
LICENSES = f"{MIRRORS[0].files}/LICENSE.txt"


@dataclass(frozen=True)
class OfficialTask:
    """One of the ten tasks, as it was published."""

    folder: str
    """Name of its folder: name, version and mode."""
    short: str
    """The column of the paper's Table 2."""
    area: str
    """Its group of columns in Table 2."""
    topic: str
    """The thing to classify."""
    classes: int
    clips: int
    seconds: float | None
    """Duration of every clip; None if it differs."""
    hours: float
    """Total duration of all clips."""
    source: str
    """Page of the original dataset."""
    license: str
    """License of the original dataset; empty where unknown."""
    metric: str = "top1_acc"
    """heareval's name of the primary metric."""
    folds: int = 5
    """Folds of the cross-validation; 1 for a train/valid/test task."""

    @property
    def archive(self) -> str:
        """File name of the 48 kHz archive."""
        return f"hear2021-{self.folder}-48000.tar.gz"


_TASKS = (
    OfficialTask(
        "beijing_opera-v1.0-hear2021-full",
        "BO",
        "Music & Pitch",
        "percussion instrument",
        classes=4,
        clips=236,
        seconds=4.77,
        hours=0.31,
        source="https://zenodo.org/records/1285212",
        license="",
    ),
    OfficialTask(
        "mridangam_stroke-v1.5-full",
        "Mri-S",
        "Music & Pitch",
        "drum stroke",
        classes=10,
        clips=6977,
        seconds=0.81,
        hours=1.57,
        source="https://zenodo.org/records/4068196",
        license="CC BY 3.0",
    ),
    OfficialTask(
        "mridangam_tonic-v1.5-full",
        "Mri-T",
        "Music & Pitch",
        "tonic of a drum",
        classes=6,
        clips=6977,
        seconds=0.81,
        hours=1.57,
        source="https://zenodo.org/records/4068196",
        license="CC BY 3.0",
    ),
    OfficialTask(
        "nsynth_pitch-v2.2.3-5h",
        "NS-5h",
        "Music & Pitch",
        "pitch of a note",
        classes=88,
        clips=5000,
        seconds=4.0,
        hours=5.56,
        source="https://magenta.tensorflow.org/datasets/nsynth",
        license="CC BY 4.0",
        metric="pitch_acc",
        folds=1,
    ),
    OfficialTask(
        "tfds_crema_d-1.0.0-full",
        "CD",
        "Speech-based tasks",
        "emotion",
        classes=6,
        clips=7438,
        seconds=5.0,
        hours=10.33,
        source="https://github.com/CheyneyComputerScience/CREMA-D",
        license="ODbL 1.0",
    ),
    OfficialTask(
        "libricount-v1.0.0-hear2021-full",
        "LC",
        "Speech-based tasks",
        "number of speakers",
        classes=11,
        clips=5720,
        seconds=5.0,
        hours=7.94,
        source="https://zenodo.org/records/1216072",
        license="CC BY 4.0",
    ),
    OfficialTask(
        "speech_commands-v0.0.2-5h",
        "SC-5h",
        "Speech-based tasks",
        "spoken word",
        classes=12,
        clips=22890,
        seconds=1.0,
        hours=6.36,
        source="https://www.tensorflow.org/datasets/catalog/speech_commands",
        license="CC BY 4.0",
        folds=1,
    ),
    OfficialTask(
        "vox_lingua_top10-hear2021-full",
        "VL",
        "Speech-based tasks",
        "language",
        classes=10,
        clips=972,
        seconds=18.64,
        hours=5.03,
        source="https://bark.phon.ioc.ee/voxlingua107/",
        license="CC BY 4.0",
    ),
    OfficialTask(
        "esc50-v2.0.0-full",
        "E50",
        "Audio",
        "environmental sound",
        classes=50,
        clips=2000,
        seconds=5.0,
        hours=2.78,
        source="https://github.com/karolpiczak/ESC-50",
        license="CC BY-NC 3.0",
    ),
    OfficialTask(
        "fsd50k-v1.0-full",
        "F50K",
        "Audio",
        "sound events",
        classes=200,
        clips=51185,
        seconds=None,
        hours=108.3,
        source="https://zenodo.org/records/4060432",
        license="CC BY 4.0",
        metric="mAP",
        folds=1,
    ),
)
OFFICIAL: dict[str, OfficialTask] = {task.folder: task for task in _TASKS}
"""Folder -> task, in the order of the paper's Table 2."""
