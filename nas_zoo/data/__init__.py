"""From a file's bytes to batches of pixels: pictures, their sources, data sets by name, batches, augmentation."""
