"""`python -m superrl`, and so `torchrun -m superrl train ...`: the command line of `cli`."""

from superrl.cli import main

if __name__ == "__main__":
    main()
