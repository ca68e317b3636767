"""X-ARES (https://github.com/jimbozhang/xares): an encoder for its runner.

A file for ``python -m xares.run`` needs one line:

    from hear_axlstm.integrations.xares import AxLSTMEncoder
"""

from __future__ import annotations

from torch import Tensor, nn

from hear_axlstm import get_timestamp_embeddings, load_model


class AxLSTMEncoder(nn.Module):
    """Timestamp embeddings with the attributes that X-ARES expects.

    Args:
        model: name, file, folder or hub address, as for `hear_axlstm.load_model`.

    Attributes:
        sampling_rate: in Hz.
        output_dim: width of an embedding.
        hop_size_in_ms: time from one embedding to the next.
    """

    def __init__(self, model: str = "") -> None:
        super().__init__()
        self.model = load_model(model)
        self.sampling_rate = self.model.sample_rate
        self.output_dim = self.model.timestamp_embedding_size
        self.hop_size_in_ms = 1000.0 * self.model.config.step_seconds

    def forward(self, audio: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            audio: float ``[batch, samples]`` (or ``[samples]``) in -1..1 at ``sampling_rate``.

        Returns:
            float32 ``[batch, steps, output_dim]``.
        """
        return get_timestamp_embeddings(audio if audio.ndim == 2 else audio[None], self.model)[0]
