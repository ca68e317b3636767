"""AudioEmbedding by scikit-learn's own checks, and in a pipeline."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hear_axlstm import load_model
from hear_axlstm.integrations.sklearn import AudioEmbedding


# scikit-learn leaves out the checks that fit tables of numbers: clips are not rows of a table.
@parametrize_with_checks([AudioEmbedding()])
def test_estimator_checks(estimator, check) -> None:
    check(estimator)


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    """Four low and four high tones."""
    paths = []
    for index in range(8):
        hertz = (200 if index < 4 else 2000) * (1 + 0.05 * index)
        tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16_000)
        paths.append(str(tmp_path / f"{index}.wav"))
        soundfile.write(paths[-1], tone, 16_000)
    return paths


def test_a_pipeline_classifies_files(clips: list[str]) -> None:
    labels = np.repeat(["low", "high"], 4)
    pipeline = make_pipeline(AudioEmbedding(), StandardScaler(), LogisticRegression())
    assert (pipeline.fit(clips, labels).predict(clips) == labels).all()
    assert len(pipeline[:2].get_feature_names_out()) == 960
    pipeline.set_params(audioembedding__pooling="mean_std").fit(clips, labels)
    assert len(pipeline[:2].get_feature_names_out()) == 1920


def test_embeddings_are_those_of_the_model(clips: list[str]) -> None:
    estimator = AudioEmbedding().fit(clips)
    expected = load_model().embed(clips)
    arrays = [soundfile.read(path, dtype="float32")[0] for path in clips]
    np.testing.assert_allclose(estimator.transform(clips), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(estimator.transform(arrays), expected, rtol=1e-3, atol=1e-4)
    again = pickle.loads(pickle.dumps(estimator))
    assert len(pickle.dumps(estimator)) < 2000
    np.testing.assert_allclose(again.transform(clips), expected, rtol=1e-5, atol=1e-6)
    assert clone(estimator).get_params() == estimator.get_params()
