"""Cells as pictures, text and code that stands alone."""
