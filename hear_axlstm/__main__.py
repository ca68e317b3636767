"""Run the command `axlstm` as `python -m hear_axlstm`, as torchrun does."""

from hear_axlstm.cli import main

if __name__ == "__main__":
    main()
