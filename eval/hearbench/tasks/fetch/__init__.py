"""Fetching of the official tasks from their public 48 kHz archives, at the rates of the models.

archives      sources, sizes and checksums of the archives
fetch         one task, from its archive's URL to its folder
unpack        reads an untrusted archive; convert: turns it into a task folder
"""
