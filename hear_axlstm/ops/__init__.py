"""Fast implementations of the operations in `hear_axlstm.models` for each type of hardware."""
