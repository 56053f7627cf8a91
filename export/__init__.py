"""From a model to files that run elsewhere (imported as nas_zoo.export)."""
