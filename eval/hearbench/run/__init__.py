"""The plan of an evaluation, and its resumable computation.

evaluate      one evaluation, from its options to its report
plan          systems, tasks and seeds, and the paths of their files
sweep         the jobs that compute what is missing
workers       runs jobs in processes, on this machine or a cluster
"""
