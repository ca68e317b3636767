"""Evaluation of audio embeddings on HEAR tasks, in the same way for every system.

cli/            hearbench COMMAND, one file per command
run/            the plan of an evaluation, and the sweep that computes what is missing
tasks/          task folders: read, checked, fetched; audio: their clips as samples
synthetic/      generated tasks in the same format, and an unlabeled corpus
systems/        modules behind the HEAR API, and fingerprints of them
weights/        published checkpoints of the systems; download: transfers over HTTP
embed/          a system's embeddings of a task, computed once
probes/         two engines that train and test the probes on embeddings
stats           means, intervals, s(m); results: those of an evaluation
paper_tables/   the scores that the paper prints, as data
report/         the tables and pictures of an evaluation
integrations/   the same systems in other benchmarks
options, progress, logs, in_threads, machine, errors   what the others share
"""
