"""The same mathematics as in `hear_axlstm.models`, made fast for each kind of hardware."""
