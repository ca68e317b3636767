"""X-ARES (https://github.com/jimbozhang/xares), for any module behind the HEAR API.

A file for ``python -m xares.run`` names the system; X-ARES requires a class name that ends in
Encoder:

    from hearbench.integrations.xares import HearSystem

    class BeatsEncoder(HearSystem):
        spec = "beats@BEATs_iter3.pt"
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hearbench.systems.specs import SystemSpecError, load_system, parse_system

PROBE_SECONDS = 4  # length of the clip that the timestamp spacing is measured on


class HearSystem(nn.Module):
    """Timestamp embeddings with the attributes that X-ARES expects; a subclass sets `spec`.

    Attributes:
        spec: as for `hearbench run --systems`.
        sampling_rate: in Hz.
        output_dim: width of an embedding.
        hop_size_in_ms: time from one embedding to the next, from the system's own timestamps.
    """

    spec = ""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.model = load_system(parse_system(self.spec))
        kind = type(self.model)
        if not issubclass(kind, nn.Module):
            raise SystemSpecError(
                f"system {self.spec!r}: its model is a {kind.__name__}, and X-ARES needs a "
                "torch.nn.Module: choose another system"
            )
        self.sampling_rate: int = self.model.sample_rate
        self.output_dim: int = self.model.timestamp_embedding_size
        probe = torch.zeros(1, PROBE_SECONDS * self.sampling_rate)
        times = self.module.get_timestamp_embeddings(probe, self.model)[1][0]
        self.hop_size_in_ms = float(times.double().diff().mean())

    def forward(self, audio: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            audio: float ``[batch, samples]`` (or ``[samples]``) in -1..1 at ``sampling_rate``.

        Returns:
            float32 ``[batch, steps, output_dim]``.
        """
        batch = audio if audio.ndim == 2 else audio[None]
        return self.module.get_timestamp_embeddings(batch, self.model)[0]
