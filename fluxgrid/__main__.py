"""Let `python -m fluxgrid` be the command line."""

from fluxgrid.cli import main

if __name__ == "__main__":
    main()
