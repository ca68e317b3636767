"""The model card of published weights, from what their file says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData
from torch import Tensor

from hear_axlstm.config import ModelConfig

TEMPLATE = """---
{head}
---

# {name}

Audio embeddings by [hear_axlstm](https://hearbenchmark.com/hear-api.html), behind the HEAR API: {kind}, {parameters:,}
parameters, mask token and reconstruction head included.

```python
from hear_axlstm import get_scene_embeddings, load_model

model = load_model("hf://{repo}")
scene = get_scene_embeddings(audio, model)  # [clips, {size}], from float [clips, samples] at {rate} Hz
```

A timestamp embedding stands for {step:g} ms. {layout}

## Settings

{settings}

## Training

{training}

## Licence

{license}
"""
LAYOUTS = {
    "time": "It holds the patches of that moment side by side.",
    "release": "Its rows mix moments, as the reference release lays them out; "
    'load_model(..., layout="time") lays them out by time.',
}


def write_card(
    repo: str,
    config: ModelConfig,
    training: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    license: str | None,
) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        repo: ``org/repo``, where the weights will be.
        config: their settings.
        training: facts about their training.
        tensors: the weights.
        license: as the hub names it, or None.
    """
    tags = ["audio", "audio-embeddings", "HEAR", config.architecture]
    head = ModelCardData(
        license=license, library_name="hear_axlstm", tags=tags, pipeline_tag="feature-extraction"
    )
    return TEMPLATE.format(
        head=head.to_yaml().strip(),
        name=repo.split("/")[-1],
        repo=repo,
        kind={"axlstm": "AxLSTM", "ssast": "SSAST"}[config.architecture],
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        size=config.embedding_size,
        rate=config.mel.sample_rate,
        step=1000 * config.step_seconds,
        layout=LAYOUTS[config.layout],
        settings=_table(config.to_dict()),
        training=_table(training),
        license=license or "Not stated by the publisher.",
    )


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in _flat(facts) if value is not None]
    return "\n".join(("| | |", "|---|---|", *rows)) if rows else "Nothing is recorded."


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs
