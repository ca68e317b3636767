"""Containers of sound: what each promises, and where the sounds of a joined file lie."""
