"""Architectures, heads, the registry and checkpoints."""
