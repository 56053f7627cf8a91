"""What every long program shares.

Other rooms import of it:

    settings      dataclasses of settings, from flags and YAML
    loop          epochs, resume, log, stop, budget, checkpoints
    checkpoint    the state of a run, written and read
    log           the run's log, one JSON line an epoch
    schedule      rates as functions of the step
    stop          requests to stop
    distributed   several processes
    launch        what accelerate was asked for
    lock          one run a folder at a time
    files         the one writer of files and folders
    trackers      figures for TensorBoard and its like
    facts         machine, versions and commit of a run
    ending        how a program ends
    outside       code from outside the package
    progress      how far long work has come
"""
