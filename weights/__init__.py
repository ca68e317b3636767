"""The weights that ship with hear_axlstm and their model cards (data only)."""
