"""Every experiment by its name."""

from nas_zoo.search.papers import da2s, edas

__all__ = ["EXPERIMENTS"]

EXPERIMENTS = {experiment.name: experiment for experiment in (*edas.EXPERIMENTS, *da2s.EXPERIMENTS)}
