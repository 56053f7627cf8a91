"""How a finished run becomes weights of the package.

Other rooms import of it:

    adopt   the program, and what a card needs of a run
"""
