"""`python -m continual` is the command `equimos`."""

from continual.cli.app import main

if __name__ == "__main__":
    main()
