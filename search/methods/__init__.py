"""Search methods, one a file.

Other rooms import of it:

    da2s         the control functions
"""
