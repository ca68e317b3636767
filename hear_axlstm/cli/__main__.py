"""Run the command line as `python -m hear_axlstm.cli`, as torchrun does."""

from hear_axlstm.cli import main

if __name__ == "__main__":
    main()
