"""Own pictures to a served model that keeps a latency: `nas-zoo auto`, on top of search, training and export.

Top to bottom of a run, and what its folder holds of each:

    settings    what is wanted                          log.jsonl, first line
    look        what the pictures are like              look.json, division.json
    plan        image size, width, depth                log.jsonl, of stage "plan"
    stages      the stages in their order               latency.json, search/, genotype.json, train/, model.onnx, page/
    measuring   what a file gets right, epochs' time   (the choices in log.jsonl)
    clock       time over kills, the one display        clock.json
    compare     what is had without a search            compare.json, compare/
    report      the page that says how good it is       report.html, wrong.json
    run         the program                             summary.json
"""
