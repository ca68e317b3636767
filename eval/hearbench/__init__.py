"""Evaluates audio embeddings on HEAR tasks: every system, task and seed in the same way.

tasks/       task folders: read, checked, fetched
systems/     modules behind the HEAR API
embed/       a task through a system, once
probes/      two engines that train and test the probes on embeddings
run/         the plan of an evaluation, and the sweep that computes what is missing
stats, results, report/    means, intervals, s(m), tables
"""
