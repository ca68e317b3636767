"""The end of a run: parts joined, what failed listed, a stamp on it all."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hear_axlstm.audio.clips import Skipped
from hear_axlstm.audio.sources import CSV
from hear_axlstm.data.shards import digest, write_text
from hear_axlstm.embed.bulk.output import Output, OutputError
from hear_axlstm.embed.bulk.parts import Part
from hear_axlstm.embed.embedder import Embedder


@dataclass(frozen=True)
class Report:
    """What was embedded, and what was not."""

    output: Output
    clips: int
    hours: float
    skipped: Mapping[str, int]
    """Number of files that gave no embedding, by kind of reason; the report names each."""

    def __str__(self) -> str:
        text = f"{self.output.path}: {self.clips:,} clips, {self.hours:,.2f} hours"
        if self.skipped:
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.skipped.items())
            text += (
                f"; {sum(self.skipped.values()):,} could not be embedded ({kinds}), see "
                f"{self.output.report}. Mend them and give the same command again; "
                f"{self.output.parts} keeps the others until then, and may be deleted"
            )
        return text


def finish(output: Output, parts: Sequence[Part], embedder: Embedder) -> Report:
    """Join the parts, write the report and the stamp; parts that were worth it stay."""
    output.stamp.unlink(missing_ok=True)
    kinds: Counter[str] = Counter()
    fingerprints, clips, samples = [], 0, 0
    report = output.parts / "report.csv"
    with open(report, "w", encoding="utf-8", **CSV) as file:
        writer = csv.writer(file)
        writer.writerow(("id", "reason"))
        for part in parts:
            made = part.read()
            fingerprints.append(made["fingerprint"])
            writer.writerows(made["skipped"])
            kinds.update(Skipped(*skip).kind for skip in made["skipped"])
            clips += len(made["clips"])
            samples += sum(count for _, count, _ in made["clips"])
    if not clips:
        first = next(iter(kinds), "no audio in the tars")
        raise OutputError(
            f"none of {kinds.total()} files could be embedded ({first}, ...): see {report}"
        )
    output.write(parts, embedder.scene_embedding_size)
    output.report.unlink(missing_ok=True)
    if kinds:
        shutil.copyfile(report, output.report)
    stamp = {
        "fingerprint": digest(fingerprints),
        "clips": clips,
        "hours": samples / embedder.sample_rate / 3600,
        "skipped": dict(kinds.most_common()),
        "fields": output.fields,
        "size": embedder.scene_embedding_size,
        "model": embedder.config.to_dict(),
        "precision": embedder.precision,
    }
    write_text(output.stamp, json.dumps(stamp, indent=2))
    return read_report(output)


def read_report(output: Output) -> Report:
    """What the stamp tells of a finished run."""
    made = json.loads(output.stamp.read_text())
    return Report(output, made["clips"], made["hours"], made["skipped"])
