"""Published checkpoints of the other systems: a table of them, and their download."""
