"""Evaluation audio that is excluded from corpora, by file name and by content.

Names are those that the published sets give their files. Contents are git blob ids of evaluation
audio and of copies that were found in public repositories, stored as their first 12 hexadecimal
digits in reserved.txt.gz: among 100,000 other files, one is left out by chance with a probability
of 1 in 75,000.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

BLOBS = Path(__file__).with_name("reserved.txt.gz")
ID_DIGITS = 12

NAMES = {
    "ESC-50": r"\d-\d{3,}-[A-Z]-\d{1,2}\.(wav|ogg|flac)",
    "Speech Commands": r"[0-9a-f]{8}_nohash_\d+\.\w+",
    "RAVDESS": r"0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-\d\d\.\w+",
    "Free Spoken Digit Dataset": r"\d_(jackson|nicolas|theo|yweweler|george|lucas)_\d+\.\w+",
    "LibriSpeech": r"\d{2,5}-\d{3,6}-\d{4}\.(flac|wav|mp3|ogg)",
    "Mridangam Stroke": r"\d+__\w+__(bheem|cha|dheem|dhin|num|ta|tha|tham|thi|thom)-\w+-\d+\.wav",
    "Philharmonia": r"[a-z-]+_[A-G]s?\d_(very-)?(long|025|05|1|15)_\w[\w-]*\.mp3",
}
"""Regular expressions of file names, by the set that they belong to."""

_NAME = re.compile(r"(^|/)(" + "|".join(NAMES.values()) + r")$", re.IGNORECASE)


def has_reserved_name(path: str) -> bool:
    """Whether a file is named as one of the evaluation sets names its files."""
    return _NAME.search(path) is not None


def read_reserved(path: Path = BLOBS) -> frozenset[str]:
    """The reserved blob ids, each of `ID_DIGITS` hexadecimal digits."""
    return frozenset(gzip.decompress(path.read_bytes()).decode("ascii").split())
