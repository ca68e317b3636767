"""`python -m hear_axlstm` is the command `axlstm`."""

from hear_axlstm.cli import main

if __name__ == "__main__":
    main()
