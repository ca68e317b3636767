"""The CSV reader: sloppy files are read, damaged ones refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hear_axlstm.audio.clips import AudioClip
from hear_axlstm.audio.labels import LabelsError, read_labeled, warn_of_separator
from hear_axlstm.audio.skipped import Skipped
from hear_axlstm.audio.sources import TableSource
from hear_axlstm.audio.tables import Table, TableError

ROWS = [(f"{i}.wav", "ab"[i % 2]) for i in range(4)]
PLAIN = "path,label\n" + "".join(f"{path},{label}\n" for path, label in ROWS)
SLOPPY = {
    "blanks": PLAIN.replace(",", " , "),
    "capitals": PLAIN.replace("path,label", "Path,LABEL"),
    "tabs": PLAIN.replace(",", "\t"),
    "semicolons": PLAIN.replace(",", ";"),
    "bars": PLAIN.replace(",", "|"),
    "for Excel": "sep=;\n" + PLAIN.replace(",", ";"),
    "blanks after quotes": PLAIN.replace("\n", '" \n')
    .replace(",", '" , "')
    .replace("pa", '"pa')
    .replace("\n0", '\n"0')
    .replace("\n1", '\n"1')
    .replace("\n2", '\n"2')
    .replace("\n3", '\n"3'),
    "quotes": PLAIN.replace("\n", '"\n').replace(",", ',"'),
    "blank lines": "\n# a comment\n" + PLAIN.replace("\n", "\n\n"),
    "Windows": PLAIN.replace("\n", "\r\n"),
    "trailing commas": PLAIN.replace("\n", ",,\n"),
}


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "clips.csv"
    path.write_bytes(text.encode(encoding))
    return path


def pairs(path: Path) -> list[tuple[str, str]]:
    rows, _ = read_labeled(path)
    return [(Path(str(row.clip.source)).name, row.clip.labels[0]) for row in rows]


@pytest.mark.parametrize("name", SLOPPY)
def test_sloppy_files_are_read(name: str, tmp_path: Path) -> None:
    assert pairs(write(tmp_path, SLOPPY[name])) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_are_recognized(encoding: str, tmp_path: Path) -> None:
    assert pairs(write(tmp_path, PLAIN, encoding)) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN.replace("1.wav,b", '1.wav,"b'), "line 3: a quote opened here"),
        (PLAIN.replace("1.wav,b", '1.wav,"b').replace("3.wav,b", '3.wav,b"'), "line 3: a quote"),
        (PLAIN.replace("1.wav,b", '1.wav,"b') + PLAIN * 9_000, "line 3: a quote opened here"),
        ('path,label\n1.wav,"dog\n2.wav,cat"', "line 2: a quote opened here"),
        ('path,text,label\n1.wav,"Ah,dog\n2.wav,oh",cat\n', "line 2: a quote opened here"),
        ('path\ttext\n1.wav\t"a\tb\n2.wav\tb', "line 2: a quote opened here"),
        (PLAIN.replace("path,label", "path,label,Label"), "line 1: the column 'label' occurs tw"),
        (PLAIN.replace("path", "sound"), "no column 'path': its header has sound, label"),
        ("", "is empty: write a header"),
        ("PK\3\4" + PLAIN, "an Excel file or a ZIP archive: save it as CSV"),
        ("PAR1\x15\4\x15\n" + PLAIN, "is not text in UTF-8 or UTF-16"),
        ("p\0\0\0a\0\0\0t\0\0\0h\0\0\0\n\0\0\0", "is not text in UTF-8 or UTF-16"),
    ],
)
def test_damage_is_refused_with_the_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=message):
        list(Table(write(tmp_path, text)).rows())


TABS = """\
id\tpath\tsentence\tvotes
a\t1.wav\t"Ja", sagte er.\t2
b\t2.wav\t"Nein, sagte sie.\t2
c\t3.wav\t"Nun ja."\t2
d\t"4.wav"\t"Sie ""ruft\tlaut""
und lange."\t2
e\t5.wav\tUnd "dann"?\t2
f\t"6.wav"\t"Ende\t2
"""


def test_values_between_tabs_need_no_quotes(tmp_path: Path) -> None:
    rows = list(Table(write(tmp_path, TABS)).rows())
    assert [(row.line, row.values["path"], row.values["sentence"]) for row in rows] == [
        (2, "1.wav", '"Ja", sagte er.'),
        (3, "2.wav", '"Nein, sagte sie.'),
        (4, "3.wav", "Nun ja."),
        (5, "4.wav", 'Sie "ruft\tlaut"\nund lange.'),
        (7, "5.wav", 'Und "dann"?'),
        (8, "6.wav", '"Ende'),
    ]
    assert {row.values["votes"] for row in rows} == {"2"}


def test_a_quoted_value_may_have_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path, 'path,text,label\n1.wav,"Rain,\nwind",a\n2.wav,"Rain\n\nwind",b\n')
    assert [row.values["label"] for row in Table(path).rows()] == ["a", "b"]
    path = write(tmp_path, 'path,text\n1.wav,"Rain.\nThen, wind"\n')
    assert [row.values["text"] for row in Table(path).rows()] == ["Rain.\nThen, wind"]
    path = write(tmp_path, 'text,path\n"a dog, barks\nloudly",a.wav\n"x",b.wav\n')
    assert [row.values["path"] for row in Table(path).rows()] == ["a.wav", "b.wav"]


def test_one_row_never_costs_the_others(tmp_path: Path) -> None:
    text = PLAIN + "a\0b.wav,a\nrain, heavy.wav,a\n"
    clips = list(TableSource(write(tmp_path, text)).clips())
    assert [clip.reason.split(":")[0] for clip in clips if isinstance(clip, Skipped)] == [
        "it contains a NUL byte",
        "3 values for 2 columns",
    ]
    assert len(clips) == 6


def test_zeros_of_an_interrupted_copy_are_one_bad_row(tmp_path: Path) -> None:
    clips = list(TableSource(write(tmp_path, PLAIN + 5_000 * "\0")).clips())
    assert isinstance(clips[-1], Skipped) and "NUL" in clips[-1].reason
    assert [isinstance(clip, AudioClip) for clip in clips[:-1]] == [True] * 4


def test_joined_files_with_marks_and_lines_for_excel(tmp_path: Path) -> None:
    plain = list(Table(write(tmp_path, PLAIN)).rows())
    for first in ('"sep=,"\n', "SEP=,\n", "\ufeffsep=,\n"):
        rows = list(Table(write(tmp_path, first + PLAIN)).rows())
        assert [row.values for row in rows] == [row.values for row in plain]
    rows = list(Table(write(tmp_path, PLAIN + "\ufeff" + PLAIN.partition("\n")[2])).rows())
    assert [row.values for row in rows] == 2 * [row.values for row in plain]


def test_a_single_column_may_hold_commas(tmp_path: Path) -> None:
    path = write(tmp_path, 'path\nrain, heavy.wav\n"wind, light.wav"\n')
    assert [clip.id for clip in TableSource(path).clips()] == [
        "rain, heavy.wav",
        "wind, light.wav",
    ]


def test_other_columns_and_spans(tmp_path: Path) -> None:
    path = write(tmp_path, "id;sound;start;end\n1;a.wav;0,5;1,5\n2;b.wav;;\n")
    first, second = TableSource(path, "Sound").clips()
    assert (first.start, first.end) == (0.5, 1.5)  # type: ignore[union-attr]
    assert second == AudioClip("b.wav", str(tmp_path / "b.wav"))


PUBLISHED = {
    "ESC-50": (
        "meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n",
        "audio/1-100032-A-0.wav",
        ("dog",),
    ),
    "UrbanSound8K": (
        "metadata/UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "100032-3-0-0.wav,100032,5.0,5.317551,1,5,3,dog_bark\n",
        "audio/fold5/100032-3-0-0.wav",
        ("dog_bark",),
    ),
    "FSD50K": (
        "FSD50K.ground_truth/dev.csv",
        'fname,labels,mids,split\n64760,"Electric_guitar,Guitar","/m/02sgy,/m/0342h",val\n',
        "FSD50K.dev_audio/64760.wav",
        ("Electric_guitar", "Guitar"),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_metadata_is_read_as_published(name: str, tmp_path: Path) -> None:
    table, text, audio, labels = PUBLISHED[name]
    for path in (tmp_path / table, tmp_path / audio):
        path.parent.mkdir(parents=True)
    (tmp_path / table).write_text(text, "utf-8")
    (tmp_path / audio).touch()
    separator = "," if len(labels) > 1 else None
    ((row,), _) = read_labeled(tmp_path / table, separator=separator)
    assert row.clip.source == str(tmp_path / audio) and row.clip.labels == labels
    assert (row.clip.start, row.clip.end) == (0.0, None)
    assert row.split == ("valid" if name == "FSD50K" else "")


def test_a_clip_of_two_classes_is_refused_by_its_lines(tmp_path: Path) -> None:
    twice, _ = read_labeled(write(tmp_path, PLAIN + "0.wav,a\n"))
    assert len(twice) == 4
    path = write(tmp_path, PLAIN + "0.wav,b\n")
    with pytest.raises(LabelsError, match=r"0.wav is 'a' in line 2 and 'b' in line 6"):
        read_labeled(path)
    (first, *_), _ = read_labeled(path, separator=";")
    assert first.clip.labels == ("a", "b")


def test_another_separator_is_suspected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, 'path,label\n0.wav,"Rain,Wind"\n1.wav,Rain\n')
    warn_of_separator(read_labeled(path, separator=";")[0], ";")
    assert "pass --separator ','" in caplog.text
    caplog.clear()
    warn_of_separator(read_labeled(path, separator=",")[0], ",")
    assert not caplog.text
