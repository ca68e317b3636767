"""Exit codes of the commands."""

INTERRUPTED = 130  # the shell's exit status after Ctrl-C
