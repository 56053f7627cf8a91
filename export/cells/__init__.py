"""Cells as pictures, text and code that stands alone.

Other rooms import of it:

    draw      as SVG, PNG or PDF
    to_timm   as text and as a timm module
"""
