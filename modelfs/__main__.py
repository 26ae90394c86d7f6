"""The command `modelfs` as `python -m modelfs`."""

from modelfs.cli.main import main

if __name__ == "__main__":
    main()
