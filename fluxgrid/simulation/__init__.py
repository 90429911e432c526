"""The built-in synthetic world."""
