"""`python -m hear_axlstm.cli`, which torchrun needs."""

from hear_axlstm.cli import main

if __name__ == "__main__":
    main()
