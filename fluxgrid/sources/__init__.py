"""Readers of published products, one per file."""
