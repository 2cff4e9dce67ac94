"""`python -m bayessep` is the same as `bayessep`."""

from bayessep.cli import main

if __name__ == "__main__":
    main()
