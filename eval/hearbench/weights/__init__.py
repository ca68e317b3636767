"""Published checkpoints of the other systems: a table of them, and their download.

table         the checkpoints, from table.csv, with sources and licenses
fetch         gets one or several, checks and keeps them
drive         folders and files of Google Drive; runs: which files of a run are needed
files         files that a browser downloaded, also in zips
"""
