"""scikit-learn: scene embeddings as a transformer, so that a classifier is a pipeline.

make_pipeline(AudioEmbedding(), StandardScaler(), LogisticRegression()).fit(paths, labels)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from hear_axlstm import Embedder, load_model


class AudioEmbedding(TransformerMixin, BaseEstimator):
    """Scene embeddings of audio files or arrays; fitting only loads the model.

    Args:
        model: name, file, folder or hub address, as for `hear_axlstm.load_model`; "" selects the
            default weights.
        precision: "float32", "bfloat16" or "auto", as for `hear_axlstm.load_model`.
        device: torch device of the model.
        pooling: "mean" or "mean_std", as for `hear_axlstm.load_model`.

    Attributes:
        n_features_out_: width of the embedding.
    """

    def __init__(
        self,
        model: str = "",
        precision: str = "float32",
        device: str = "cpu",
        pooling: str | None = None,
    ) -> None:
        self.model = model
        self.precision = precision
        self.device = device
        self.pooling = pooling

    def fit(self, X: Sequence[Any], y: Any = None) -> AudioEmbedding:
        """Load the model.

        Args:
            X: paths, or arrays ``[samples]`` at the model's sample rate; not read.
            y: ignored.

        Raises:
            ValueError, OSError: as `hear_axlstm.load_model` does.
        """
        if len(X) == 0:
            raise ValueError("X has no clips: pass at least one path or array")
        self._embedder = self._load()
        self.n_features_out_ = self._embedder.scene_embedding_size
        return self

    def transform(self, X: Sequence[Any]) -> NDArray[np.float32]:
        """Embed clips.

        Args:
            X: paths of audio files, or arrays ``[samples]`` in -1..1 at the model's sample rate;
                clips may have different lengths.

        Returns:
            float32 ``[clips, n_features_out_]``.

        Raises:
            AudioError: for a file without usable audio.
            TypeError, ValueError: for arrays that are not audio.
        """
        check_is_fitted(self)
        if self._embedder is None:  # after unpickling
            self._embedder = self._load()
        clips = [os.fspath(x) if isinstance(x, (str, os.PathLike)) else np.asarray(x) for x in X]
        return np.asarray(self._embedder.embed(clips))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the embedding's dimensions, ``audioembedding0`` and so on."""
        check_is_fitted(self)
        names = [f"audioembedding{i}" for i in range(self.n_features_out_)]
        return np.array(names, dtype=object)

    def _load(self) -> Embedder:
        options: Any = {"precision": self.precision, "pooling": self.pooling}
        return load_model(self.model, **options).to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        # The weights are loaded again where the estimator is unpickled.
        state = super().__getstate__()
        return {**state, "_embedder": None} if "_embedder" in state else state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        return tags
