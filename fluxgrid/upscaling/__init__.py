"""From a plan of tiles to a finished map."""
