"""Audio containers: the lengths that they declare, and the parts of a concatenated file."""
