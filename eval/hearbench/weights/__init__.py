"""Published checkpoints of the other systems: which there are, and getting them."""
