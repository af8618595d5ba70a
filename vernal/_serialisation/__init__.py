"""Trees in files."""
