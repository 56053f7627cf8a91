"""Training and evaluation of one network: `python -m nas_zoo.train`.

Other rooms import of it:

    run          the program and its step
    recipes      settings with a source
    model        the network that settings name
    evaluation   what a network gets right
"""
