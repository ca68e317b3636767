"""The official tasks from their public 48 kHz archives, at the rates that models want.

`archives` finds them and tells what they take, `download` gets one, `unpack` reads it without
trusting it, `convert` makes a task folder of it.
"""
