"""`python -m adreg` is the `adreg` command."""

from adreg.cli.app import main

if __name__ == "__main__":
    main()
