"""Fetching of the official tasks from their public 48 kHz archives, at the rates of the models.

`archives` finds them and estimates their size, `download` gets one, `unpack` reads it safely, and
`convert` turns it into a task folder.
"""
