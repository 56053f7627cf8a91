"""The page of a search: its log read, what is said, the figures as SVG, how it looks.

Other rooms import of it:

    figures      lines, columns, pairs, spreads and cells as SVG
    history      a search as its folder tells of it
    page         the style sheet
"""
