"""Evaluation of audio embeddings on HEAR tasks, in the same way for every system.

tasks/       task folders: read, checked, fetched
systems/     modules behind the HEAR API
embed/       a system's embeddings of a task, computed once
probes/      two engines that train and test the probes on embeddings
run/         the plan of an evaluation, and the sweep that computes what is missing
stats, results, report/    means, intervals, s(m), tables
"""
