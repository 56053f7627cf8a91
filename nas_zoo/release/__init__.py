"""How a finished run becomes weights of the package."""
