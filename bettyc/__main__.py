"""`python -m bettyc` is the command `bettyc`."""

from bettyc.cli.main import main

if __name__ == "__main__":
    main()
