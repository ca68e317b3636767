"""What `axlstm` can do: one command a file."""
