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

Audio embeddings of hear_axlstm, behind the [HEAR API](https://hearbenchmark.com/hear-api.html):
{kind}, {parameters:,} parameters, mask token and reconstruction head included.

```python
from hear_axlstm import get_scene_embeddings, load_model

model = load_model("hf://{repo}")
scene = get_scene_embeddings(audio, model)  # [clips, {size}]
```

`audio` is a float tensor `[clips, samples]` in -1..1 at {rate} Hz.

There is a timestamp embedding every {step:g} ms. {layout}

## Settings

{settings}

## Training

{training}

## License

{license}
"""
RECIPE = ("init", "epochs", "warmup_epochs", "batch_size", "base_lr", "lr", "weight_decay", "seed")
LAYOUTS = {
    "time": "It holds the patches of its moment side by side.",
    "release": "It mixes moments of its window, as in the reference release;\n"
    '`load_model(..., layout="time")` gives rows of one moment each.',
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
        training=_table(_for_the_card(training)),
        license=license or "Not stated by the publisher.",
    )


def _for_the_card(training: Mapping[str, Any]) -> dict[str, Any]:
    recipe = training.get("config", {})
    facts = {name: value for name, value in training.items() if name != "config"}
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
            pairs.append((f"{prefix}{name}", value))
    return pairs
