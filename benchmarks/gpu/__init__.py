"""Checks and measurements of a GPU: `python -m benchmarks.gpu`."""
