"""Searches: one method a file, one loop for all (imported as nas_zoo.search).

Other rooms import of it:

    run          the program and its step
"""
