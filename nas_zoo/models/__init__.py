"""Networks: from operations to timm models, with their weights and counts.

Other rooms import of it:

    operations   the candidate operations
    depthwise    layers with gradients by hand, and concatenation
    layout       which cell stands where
    network      the network of any cells
    catalog      which models there are
    registry     timm is told of them
    table        what there is to say of each: counts, figures
    count        parameters and multiply-adds
    latency      what a network takes, from times of its pieces
    config       config.json of a run
    load         a model with its weights by whatever a user calls it
    convert      other programs' weights into ours
    public       weights that others publish
    results      weights that we publish
    palette      colours of the operations
"""
