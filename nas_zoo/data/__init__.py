"""From a file's bytes to batches of pixels: pictures, data sets by name, augmentation."""
