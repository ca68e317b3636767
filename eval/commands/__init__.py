"""What `python -m eval` can do: one command a file."""

INTERRUPTED = 130  # the shell's exit status after Ctrl-C
