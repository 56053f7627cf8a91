"""The page of a search: its log read, what is said, the figures as SVG, how it looks."""
