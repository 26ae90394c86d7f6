"""The command `modelfs` as `python -m modelfs`."""

from modelfs.cli.start import main

if __name__ == "__main__":
    main()
