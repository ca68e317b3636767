"""The model card of published weights, from their file and an evaluation."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from torch import Tensor

from hear_axlstm.checkpoints import hub
from hear_axlstm.config import ModelConfig

TEMPLATE = """---
{head}
---

# {name}: {kind} audio embeddings

General-purpose embeddings of audio from {kind}, {parameters:,} parameters (mask token and
reconstruction head included), for hear_axlstm, which follows the
[HEAR API](https://hearbenchmark.com/hear-api.html).

## Use

```
pip install .   # in a clone of hear_axlstm
```

```python
import torch
from hear_axlstm import get_scene_embeddings, get_timestamp_embeddings, load_model

model = load_model("hf://{repo}")
audio = 0.1 * torch.randn(1, 2 * {rate})  # use yours: [clips, samples] at {rate} Hz, in -1..1
scene = get_scene_embeddings(audio, model)  # [1, {scene}]
steps, times = get_timestamp_embeddings(audio, model)  # [1, steps, {size}], [1, steps] in ms
```

`model.embed_scenes("clip.wav")` reads a file of any sample rate and number of channels.

There is a timestamp embedding every {step:g} ms. {layout}

## Scores

{scores}

## Settings

{settings}

## Training

{training}

## License

{license}
"""
KINDS = {"axlstm": "AxLSTM", "ssast": "SSAST"}
FOREIGN = {"axlstm": ("mlp_ratio",), "ssast": ("expansion", "flip", "input_gate")}
"""Settings that an architecture does not have."""
RECIPE = ("init", "epochs", "warmup_epochs", "batch_size", "base_lr", "lr", "weight_decay", "seed")
LAYOUTS = {
    "time": "It holds the patches of its time step side by side.",
    "release": "It mixes time steps of its window, as in the reference release;\n"
    '`load_model(..., layout="time")` gives rows of one time step each.',
}
SCORES = "scores"  # key of a classifier's scores among the facts about its training


def write_card(
    repo: str,
    config: ModelConfig,
    training: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    license: str | None,
    results: list[EvalResult] | None = None,
) -> str:
    """Write Markdown with the hub's metadata on top.

    Args:
        repo: ``org/repo`` of the weights.
        config: settings of the weights.
        training: facts about their training; the scores of a classifier among them are reported.
        tensors: the weights.
        license: license as the hub names it, or None.
        results: further scores, from `read_scores`.
    """
    name, kind = repo.split("/")[-1], KINDS.get(config.architecture, config.architecture)
    results = [*(results or []), *_own_scores(training)]
    head = ModelCardData(
        license=license,
        library_name="hear_axlstm",
        tags=["audio", "audio-embeddings", "HEAR", "hear_axlstm", config.architecture],
        pipeline_tag="feature-extraction",
        model_name=name,
        eval_results=results or None,
    )
    foreign = FOREIGN.get(config.architecture, ())
    settings = {name: v for name, v in config.to_dict().items() if name not in foreign}
    return TEMPLATE.format(
        head=head.to_yaml().strip(),
        name=name,
        repo=repo,
        kind=kind,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        size=config.embedding_size,
        scene=config.scene_embedding_size,
        rate=config.mel.sample_rate,
        step=1000 * config.step_seconds,
        layout=LAYOUTS[config.layout],
        scores=_score_table(results),
        settings=_table(settings),
        training=_table(_for_the_card(training)),
        license=license or "Not specified by the publisher.",
    )


def read_scores(path: Path, system: str | None) -> list[EvalResult]:
    """Mean scores of a system, in percent, from the ``results.csv`` of hearbench.

    Args:
        path: the file.
        system: label of the system; it may be left out if there is only one.

    Raises:
        ValueError: for another file, or without a system of that name.
    """
    runs: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                runs[row["system"]][row["task"], row["metric"]].append(float(row["percent"]))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a results.csv of hearbench ({error!r})") from None
    chosen = next(iter(runs), None) if system is None and len(runs) == 1 else system
    if chosen not in runs:
        raise ValueError(f"{path} contains the systems {', '.join(runs)}: pass one with --system")
    return [
        _result(task, "hear", metric, fmean(scores), f"{metric}, %, mean of {len(scores)} seeds")
        for (task, metric), scores in runs[chosen].items()
    ]


def _own_scores(training: Mapping[str, Any]) -> list[EvalResult]:
    """Scores recorded in a file: those of a classifier, or the validation loss."""
    found = [
        _result("the clips it was fine-tuned on", "custom", metric, value, metric, split)
        for split, scores in training.get(SCORES, {}).items()
        for metric, value in scores.items()
    ]
    loss = training.get("validation_loss")
    if isinstance(loss, float):
        found.append(_result("its training corpus", "custom", "mse", loss, "masked loss", "valid"))
    return [result for result in found if math.isfinite(result.metric_value)]


def _result(
    dataset: str, kind: str, metric: str, value: float, label: str, split: str = "test"
) -> EvalResult:
    return EvalResult(
        task_type="audio-classification",
        dataset_type=kind,
        dataset_name=dataset,
        dataset_split=split,
        metric_type=metric,
        metric_value=round(value, 4),
        metric_name=label,
    )


def _score_table(results: list[EvalResult]) -> str:
    if not results:
        return "None are recorded."
    rows = [
        f"| {r.dataset_name} | {r.dataset_split} | {r.metric_name} | {r.metric_value:g} |"
        for r in results
    ]
    return "\n".join(("| data | split | metric | score |", "|---|---|---|---:|", *rows))


def without_paths(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a training without local paths, such as those of its labeled clips."""
    return {
        name: without_paths(value) if isinstance(value, Mapping) else value
        for name, value in facts.items()
        if not _is_path(value)
    }


def _is_path(value: object) -> bool:
    if not isinstance(value, str) or hub.is_address(value):
        return False
    return "/" in value or "\\" in value


def _for_the_card(training: Mapping[str, Any]) -> dict[str, Any]:
    recipe = training.get("config", {})
    facts = {name: value for name, value in training.items() if name not in ("config", SCORES)}
    return facts | {name: recipe[name] for name in RECIPE if name in recipe}


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in _flat(facts) if value is not None]
    return "\n".join(("| | |", "|---|---|", *rows)) if rows else "Nothing is recorded."


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", _joined(value)))
    return pairs


def _joined(value: object) -> object:
    """A patch as 4x16, and names separated by commas."""
    if not isinstance(value, (tuple, list)):
        return value
    sizes = all(isinstance(item, int) for item in value)
    return ("x" if sizes else ", ").join(map(str, value))
