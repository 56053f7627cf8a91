"""Importing the package costs little beside importing timm, and leaves the slow parts for when they are asked for."""

import json
import subprocess
import sys

# Processor time, which other programs on the machine do not change much.
MEASURE = """
import json, sys, time
begin = time.process_time()
import timm
between = time.process_time()
import nas_zoo
end = time.process_time()
heavy = ["nas_zoo.train", "nas_zoo.export.graph.to_onnx", "nas_zoo.search.run", "nas_zoo.models.table",
         "matplotlib", "onnx", "onnxruntime", "accelerate", "sklearn", "huggingface_hub.hf_api"]
before = json.loads(sys.argv[1])
print(json.dumps([between - begin, end - between, [n for n in heavy if n in sys.modules and n not in before]]))
"""
WITH_TIMM = "import json, sys, timm; print(json.dumps(list(sys.modules)))"


def run(code: str, *words: str) -> list:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_importing_takes_at_most_1_15_times_as_long_as_importing_timm():
    ratios = []
    for _ in range(3):
        timm, ours, _ = run(MEASURE, "[]")
        ratios.append((timm + ours) / timm)
        if ratios[-1] <= 1.15:  # one undisturbed run shows it
            break
    assert min(ratios) <= 1.15, ratios
    assert min(ratios) > 1.0


def test_importing_loads_nothing_heavy_that_timm_does_not_load():
    _, _, heavy = run(MEASURE, json.dumps(run(WITH_TIMM)))
    assert heavy == []
