"""`python -m scripts.gallery`: two pictures of nearest neighbors and of a search in a recording.

Without a folder it embeds generated sounds (`hearbench.synthetic`): nothing is downloaded.

Shapes: T mel frames, F mel bins, J time steps, D' embedding size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from hear_axlstm import load_model
from hear_axlstm.audio.io import load_audio
from hear_axlstm.audio.listing import list_folder
from hear_axlstm.embed.embedder import Embedder
from hearbench.synthetic.sounds import place, record, render, times
from hearbench.synthetic.tasks import ENVIRONMENTS

CLIPS_OF_A_CLASS = 6
CLIP_SECONDS = 2.0
NEIGHBORS = 4
QUERIES = ("birds", "engine", "knocks", "siren")
EVENTS = ("siren", "birds", "knocks", "siren", "alarm", "footsteps", "siren", "bubbles")
EVENT_SECONDS, GAP_SECONDS = 1.5, 1.0
SMOOTHED = 11  # steps of a similarity's running mean: 0.44 s
LOUDNESS_RANGE = 10.0  # of log-mel that is shown, 43 dB
COLORS = 64  # of a picture's file
BLUE = "#1f77b4"  # matplotlib's first, as in the other pictures

Sounds = dict[str, NDArray[np.float32]]


class Event(NamedTuple):
    """A sound inside a recording, in seconds."""

    name: str
    start: float
    end: float


def main(
    folder: tyro.conf.Positional[Path | None] = None,
    queries: tuple[str, ...] = (),
    example: Path | None = None,
    recording: Path | None = None,
    model: str = "",
    out: Path = Path("docs"),
) -> None:
    """Draw neighbors.png, and timeline.png if there is a recording.

    Args:
        folder: Audio to search; by default generated sounds.
        queries: Names, inside the folder, of files whose neighbors are shown; by default four.
        example: A sound to find in the recording.
        recording: The recording to search.
        model: The model, as for load_model.
        out: Folder for the pictures.
    """
    if (example is None) != (recording is None):
        raise ValueError("a timeline needs both: give --example and --recording")
    embedder = load_model(model, pooling="mean")
    sounds = generated_clips() if folder is None else read_folder(folder, embedder.sample_rate)
    if folder is None:
        queries = queries or tuple(f"{label} 1" for label in QUERIES)
    draw_neighbors(embedder, sounds, queries or tuple(sounds)[:4], out / "neighbors.png")
    if example and recording:
        found, sought = (load_audio(p, embedder.sample_rate) for p in (recording, example))
        draw_timeline(embedder, found, sought, [], out / "timeline.png")
    elif folder is None:
        draw_timeline(embedder, *generated_recording(), out / "timeline.png")


def generated_clips() -> Sounds:
    """Several sounds of each generated environmental class, alike only in class."""
    rng = np.random.default_rng(0)
    return {
        f"{label} {number}": _recorded(render(ENVIRONMENTS[label], CLIP_SECONDS, rng), rng)
        for label in ENVIRONMENTS
        for number in range(1, CLIPS_OF_A_CLASS + 1)
    }


def generated_recording() -> tuple[NDArray[np.float32], NDArray[np.float32], list[Event]]:
    """Events over faint rain, another sound of the class to find, and when events are."""
    rng = np.random.default_rng(1)
    starts = [GAP_SECONDS + n * (EVENT_SECONDS + GAP_SECONDS) for n in range(len(EVENTS))]
    seconds = starts[-1] + EVENT_SECONDS + GAP_SECONDS
    fade = np.minimum(1, 20 * np.minimum(times(EVENT_SECONDS), times(EVENT_SECONDS)[::-1]))
    sounds = [fade * render(ENVIRONMENTS[label], EVENT_SECONDS, rng) for label in EVENTS]
    scene = place(sounds, starts, seconds) + 0.1 * render(ENVIRONMENTS["rain"], seconds, rng)
    events = [Event(n, s, s + EVENT_SECONDS) for n, s in zip(EVENTS, starts, strict=True)]
    example = render(ENVIRONMENTS[EVENTS[0]], EVENT_SECONDS, rng)
    return _recorded(scene, rng), _recorded(example, rng), events


def read_folder(folder: Path, sample_rate: int) -> Sounds:
    """The first two seconds of every audio file below a folder, by name."""
    files = list_folder(str(folder)).files
    if len(files) <= NEIGHBORS:
        raise ValueError(
            f"{folder} contains {len(files)} audio files: give at least {NEIGHBORS + 1}"
        )
    return {
        path: load_audio(folder / path, sample_rate, end=CLIP_SECONDS)
        for path in tqdm(files, "decoding", unit="file")
    }


def draw_neighbors(model: Embedder, sounds: Sounds, queries: tuple[str, ...], out: Path) -> None:
    """Draw the log-mel of each query and, next to it, of its nearest clips."""
    names = list(sounds)
    if missing := [query for query in queries if query not in sounds]:
        raise ValueError(f"no clip is called {', '.join(missing)}: choose from {', '.join(names)}")
    scenes = model.embed(list(sounds.values()))
    scenes = (scenes - scenes.mean(axis=0)) / scenes.std(axis=0)
    scenes /= np.linalg.norm(scenes, axis=1, keepdims=True)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05)
    figure = Figure(figsize=(9, 1.75 * len(queries)), layout=layout)
    rows = figure.subplots(len(queries), NEIGHBORS + 1, squeeze=False)
    for row, query in zip(rows, queries, strict=True):
        similarity = scenes @ scenes[names.index(query)]
        nearest = [n for n in np.argsort(-similarity) if names[n] != query][:NEIGHBORS]
        for axis, index in zip(row, [names.index(query), *nearest], strict=True):
            _show_mel(axis, model, sounds[names[index]])
            is_query = names[index] == query
            axis.set_title(
                names[index] if is_query else f"{names[index]}  ({similarity[index]:.2f})",
                fontsize=9,
                fontweight="bold" if is_query else "normal",
            )
            _frame(axis, is_query)
    _save(figure, out)


def draw_timeline(
    model: Embedder,
    recording: NDArray[np.float32],
    example: NDArray[np.float32],
    events: list[Event],
    out: Path,
) -> None:
    """Spectrogram of a recording over the similarity of each of its time steps to an example."""
    ms, similarity = similarity_to(model, recording, example)
    seconds = len(recording) / model.sample_rate
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [["example", "spectrum"], [".", "curve"]], width_ratios=(1, 8), height_ratios=(3, 2)
    )
    sought, spectrum, curve = (axes[name] for name in ("example", "spectrum", "curve"))
    _show_mel(sought, model, example)
    _frame(sought, is_query=True)
    sought.set_title("example", fontsize=9, fontweight="bold", color=BLUE)
    _show_mel(spectrum, model, recording)
    spectrum.set_yticks([])
    spectrum.tick_params(labelbottom=False)
    for name, start, end in events:
        spectrum.annotate(
            name,
            ((start + end) / 2, 1.03),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=9,
            fontweight="bold" if name == events[0].name else "normal",
            color=BLUE if name == events[0].name else "black",
        )
        if name == events[0].name:
            curve.axvspan(start, end, color=BLUE, alpha=0.12, linewidth=0)
    curve.plot(ms / 1000, similarity, color=BLUE, linewidth=1.8)
    curve.set(xlabel="seconds", ylabel="similarity", xlim=(0, seconds))
    curve.grid(alpha=0.3)
    _save(figure, out)


def similarity_to(
    model: Embedder, recording: NDArray[np.float32], example: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Times in ms and each time step's cosine with the example, both scaled as the steps are."""
    steps_JD, ms = model.embed(recording, kind="timestamp")
    mean, std = steps_JD.mean(axis=0), steps_JD.std(axis=0)
    sought, steps_JD = (model.embed(example) - mean) / std, (steps_JD - mean) / std
    lengths = np.linalg.norm(steps_JD, axis=1) * np.linalg.norm(sought)
    cosine = steps_JD @ sought / lengths
    edges = np.pad(cosine, SMOOTHED // 2, mode="edge")
    return ms, np.convolve(edges, np.full(SMOOTHED, 1 / SMOOTHED), "valid")


def _recorded(sound: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
    return record(sound, rng).astype(np.float32)


def _show_mel(axis: Any, model: Embedder, samples: NDArray[np.float32]) -> None:
    with torch.no_grad():
        mel_TF = model.mel(torch.from_numpy(samples)[None])[0].numpy()
    top = float(mel_TF.max())
    axis.imshow(
        mel_TF.T,
        origin="lower",
        aspect="auto",
        extent=(0, len(samples) / model.sample_rate, 0, mel_TF.shape[1]),
        cmap="magma",
        vmin=top - LOUDNESS_RANGE,
        vmax=top,
        interpolation="nearest",
    )


def _frame(axis: Any, is_query: bool) -> None:
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=BLUE, linewidth=3, visible=is_query)


def _save(figure: Figure, out: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(110)
    canvas.draw()
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    few = picture.quantize(COLORS, dither=Image.Dither.NONE)  # spectrograms compress poorly
    few.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except (ValueError, OSError) as error:
        raise SystemExit(f"scripts.gallery: {error}") from None
