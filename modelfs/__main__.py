"""Lets `python -m modelfs` do what the command does."""

from modelfs.cli.main import main

if __name__ == "__main__":
    main()
