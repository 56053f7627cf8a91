"""From a file's bytes to batches of pixels.

Other rooms import of it:

    pictures      the one way from bytes to pixels
    listing       what is in a folder, a tar or a zip, and what of it is no picture
    sources       images and labels behind one call, wherever they lie
    named         data sets by name
    division      which training images are held out or left out
    tables        the library datasets, Parquet and CSV
    own           data sets of a Python program
    fingerprint   which images a set holds, as a hash
    augment       a random transform of an image as a function of numbers
    batches       what an iteration sees, as a function of seed, epoch and place
"""
