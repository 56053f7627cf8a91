"""Searches: one method a file, one loop for all (imported as nas_zoo.search)."""
