"""One file per command: the only code that sees a run config."""
