"""Adapters of HEAR modules to other benchmarks, each with its own optional extra."""
