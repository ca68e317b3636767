"""Embedding a task once, for all seeds and both engines."""

from hearbench.embed.files import embedded
from hearbench.embed.loop import embed, embedded_seconds
from hearbench.embed.model import EmbeddingError

__all__ = ["EmbeddingError", "embed", "embedded", "embedded_seconds"]
