"""Training and evaluation of one network: `python -m nas_zoo.train`."""
