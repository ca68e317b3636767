"""Benchmarks of speed and memory; results, machines and commands are in RESULTS.md."""
