"""File formats recognized by their first bytes, supported or not."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import replace

from hear_axlstm.audio.containers.ac3 import SYNC, ac3_parts
from hear_axlstm.audio.containers.au import au_parts
from hear_axlstm.audio.containers.caf import caf_parts
from hear_axlstm.audio.containers.flac import flac_parts
from hear_axlstm.audio.containers.iff import iff_parts
from hear_axlstm.audio.containers.magic import container_name
from hear_axlstm.audio.containers.mpeg import mpeg_parts
from hear_axlstm.audio.containers.nist import nist_parts
from hear_axlstm.audio.containers.ogg import ogg_parts
from hear_axlstm.audio.containers.part import CONVERT, Part
from hear_axlstm.audio.containers.riff import riff_parts
from hear_axlstm.audio.containers.sized import (
    TS_PACKET,
    asf_parts,
    avi_parts,
    flv_parts,
    matroska_parts,
    mp4_parts,
    ts_parts,
)
from hear_axlstm.audio.containers.tags import skip_tags, trailing_tags
from hear_axlstm.audio.containers.voc import voc_parts
from hear_axlstm.audio.errors import Fault
from hear_axlstm.audio.random_access import RandomAccess

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3"}
    | {".mp2", ".mpga", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".m4a", ".m4b"}
    | {".mp4", ".3gp", ".aac", ".webm", ".mka", ".wma", ".amr", ".ape", ".wv", ".tta", ".ac3"}
)
"""Endings of files that are decoded; the format itself is detected from the content."""

OTHER_AUDIO_SUFFIXES = frozenset({".mid", ".midi", ".mod", ".ra", ".rm", ".dsf", ".dff", ".mpc"})
"""Endings of audio and music files that are not decoded: reported, not ignored."""

PARSERS: dict[str, Callable[[RandomAccess, int, int], list[Part]]] = {
    "RIFF": riff_parts,
    "IFF": iff_parts,
    "AU": au_parts,
    "CAF": caf_parts,
    "FLAC": flac_parts,
    "Ogg": ogg_parts,
    "NIST": nist_parts,
    "VOC": voc_parts,
    "MP4": mp4_parts,
    "Matroska": matroska_parts,
    "ASF": asf_parts,
    "AVI": avi_parts,
    "FLV": flv_parts,
}
"""Functions that find the recordings in a file, by container."""

BY_FFMPEG: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    (b"#!AMR", "AMR", "amr"),
    (b"MAC ", "Monkey's Audio", "ape"),
    (b"wvpk", "WavPack", "wv"),
    (b"TTA1", "TTA", "tta"),
    ((b"ADIF", b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9"), "AAC", "aac"),
)
"""First bytes, name and FFmpeg demuxer of formats that don't declare a length in bytes."""

JUNK_BYTES = 1 << 16  # before the first page of Ogg or the head of FLAC
BEGIN_ONCE = {"AMR": 6, "Monkey's Audio": 12, "TTA": 12}
"""Number of first bytes that occur nowhere else in a file: a second match is another file."""

BY_SNDFILE: tuple[bytes, ...] = (
    *(b" paf", b"fap ", b"PVF1", b"Extended Instrument:", b"2BIT"),
    *(b"\x64\xa3", b"\0\1\xa3\x64", b"\0\2\xa3\x64", b"\0\3\xa3\x64", b"ALawSoundFile"),
)
"""First bytes of older formats that libsndfile reads: PAF, PVF, XI, AVR, IRCAM, Psion."""

SAVE_AGAIN = "download the audio file again"
NOT_AUDIO = "not audio: pass an audio file"
UNPACK = "not audio: unpack it"
OTHER_BINARY: tuple[tuple[bytes | tuple[bytes, ...], str], ...] = (
    (b"\x89PNG", f"a picture (PNG), {NOT_AUDIO}"),
    (b"\xff\xd8\xff", f"a picture (JPEG), {NOT_AUDIO}"),
    (b"GIF8", f"a picture (GIF), {NOT_AUDIO}"),
    ((b"II*\0", b"MM\0*"), f"a picture (TIFF), {NOT_AUDIO}"),
    (b"%PDF", f"a PDF document, {NOT_AUDIO}"),
    (b"\x7fELF", f"a program, {NOT_AUDIO}"),
    (b"SQLite format", f"an SQLite database, {NOT_AUDIO}"),
    (b"PK\3\4", f"a ZIP archive, {UNPACK}"),
    (b"\x1f\x8b", f"a gzip archive, {UNPACK}"),
    (b"BZh", f"a bzip2 archive, {UNPACK}"),
    (b"\xfd7zXZ\0", f"an xz archive, {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a Zstandard archive, {UNPACK}"),
    (b"7z\xbc\xaf", f"a 7-Zip archive, {UNPACK}"),
    (b"Rar!", f"a RAR archive, {UNPACK}"),
    (b"MThd", "MIDI, which has notes, not audio: render it to WAV"),
    ((b"\x80\4\x95", b"\x80\5\x95"), f"a Python pickle, {NOT_AUDIO}"),
    (b"\x93NUMPY", "a NumPy array: load it with numpy.load and pass the array"),
    (b"\x89HDF", "an HDF5 file: read it with h5py and pass the array"),
    (b".ra\xfd", f"RealAudio, which is not supported: {CONVERT}"),
    (b".RMF", f"RealMedia, which is not supported: {CONVERT}"),
    ((b"DSD ", b"FRM8"), f"DSD, which is not supported: {CONVERT}"),
    ((b"MPCK", b"MP+"), f"Musepack, which is not supported: {CONVERT}"),
    (b"tBaK", f"TAK, which is not supported: {CONVERT}"),
    (b"OFR ", f"OptimFROG, which is not supported: {CONVERT}"),
    (b"ajkg", f"Shorten, which is not supported: {CONVERT}"),
    (b"Extended Module:", "a module (XM), which has notes, not audio: render it to WAV"),
)
OTHER_TEXT: tuple[tuple[bytes | tuple[bytes, ...], str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: run `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the file: run `git annex get`"),
    ((b"<!doctype html", b"<html", b"<head"), f"a web page (HTML), not audio: {SAVE_AGAIN}"),
    (b"<?xml", f"XML text, not audio, perhaps a server's response: {SAVE_AGAIN}"),
    (b"{\\rtf", f"a text document (RTF), {NOT_AUDIO}"),
    ((b"{", b"[{"), f"JSON text, not audio, perhaps a server's response: {SAVE_AGAIN}"),
    (b"<svg", f"a picture (SVG), {NOT_AUDIO}"),
    (b"#extm3u", "a playlist (M3U), not audio: pass the files that it lists"),
    (b"[playlist]", "a playlist (PLS), not audio: pass the files that it lists"),
)
"""First bytes of files that are not audio, in lower case those of text, and what they are."""


def find_parts(file: RandomAccess) -> list[Part]:
    """Find the recordings in a file, in order; [] if its format is unknown.

    Raises:
        Fault: if one is shorter than its container declares.
    """
    at = skip_tags(file, 0, file.size)
    stop = trailing_tags(file, at, file.size)
    parts: list[Part] = []
    while at < stop:
        head = file.at(at, 64)
        container = container_name(head)
        if container is not None:
            parts += PARSERS[container](file, at, stop)
        elif not parts:
            return _streams_without_header(file, at, stop)
        else:
            break
        if not parts:
            break
        at = skip_tags(file, parts[-1].stop, stop)
    return parts


def _streams_without_header(file: RandomAccess, at: int, stop: int) -> list[Part]:
    head = file.at(at, 64)
    for magic, kind, demuxer in BY_FFMPEG:
        if head.startswith(magic):
            return _split_at_magic(file, Part(at, stop, kind, decoder=demuxer))
    if head.startswith(SYNC):
        return ac3_parts(file, at, stop)
    if head.startswith(BY_SNDFILE):
        return [Part(at, stop, "audio")]
    if all(file.at(at + packet, 1) == b"G" for packet in (0, TS_PACKET, 2 * TS_PACKET)):
        return ts_parts(at, stop)
    if describe_other(file.at(at, 1 << 12)) is not None:
        return []
    # A tag may declare too large a size, which includes the first frames
    parts = mpeg_parts(file, at, stop) or (mpeg_parts(file, 10, stop) if at else [])
    return parts or _behind_junk(file, at, stop)


def _behind_junk(file: RandomAccess, at: int, stop: int) -> list[Part]:
    for magic, parser in ((b"OggS\0\2", ogg_parts), (b"fLaC\0\0\0\x22", flac_parts)):
        found = file.find(magic, at, min(stop, at + JUNK_BYTES))
        if found >= 0:
            return parser(file, found, stop)
    return []


def _split_at_magic(file: RandomAccess, part: Part) -> list[Part]:
    """Split a part where further files are joined to it."""
    parts = []
    magic = file.at(part.start, BEGIN_ONCE.get(part.kind, 0))
    while magic and (at := file.find(magic, part.start + len(magic), part.stop)) >= 0:
        parts.append(replace(part, stop=at))
        part = replace(part, start=at)
    return [*parts, part]


def describe_other(head: bytes) -> str | None:
    """Describe a file that is not audio, with a remedy; None if its format is unknown."""
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return f"a picture (WebP), {NOT_AUDIO}"
    if head[257:262] == b"ustar":
        return "a tar archive, not audio: name it .tar, or unpack it"
    for magic, description in OTHER_BINARY:
        if head.startswith(magic):
            return description
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        head = head[: len(head) // 2 * 2].decode("utf-16", "replace").encode()
    head = head.removeprefix(b"\xef\xbb\xbf")  # byte order mark
    if not _is_text(head):
        return None
    text = head.lstrip().lower()
    found = (description for magic, description in OTHER_TEXT if text.startswith(magic))
    return next(found, f"text, {NOT_AUDIO}")


def fault_of_unknown(file: RandomAccess) -> Fault:
    """The fault of a file whose format is unknown or not audio."""
    head = file.at(0, 1 << 12)
    if not any(head):
        return Fault(
            "not decodable: only zero bytes, left by an interrupted transfer: copy it again"
        )
    after_tags = skip_tags(file, 0, file.size)
    if after_tags == file.size:
        return Fault("not decodable: a tag without audio: copy the file again")
    head = file.at(after_tags, 1 << 12)
    description = describe_other(head) or f"unknown audio format: {CONVERT}"
    return Fault(f"not decodable: {description}")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode()
    return bool(text) and all(c.isprintable() or c.isspace() for c in text)
