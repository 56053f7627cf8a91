"""How fast images are decoded in each form of data, and how fast a large set opens the second time.

    python benchmarks/data_loading.py decode
    python benchmarks/data_loading.py open --files 200000

``decode`` makes photographs of ImageNet's mean size (500 x 375, JPEG) and reads them as training does: a random resized
crop of 224 pixels, on one core, without loader processes. Each form (a folder, a tar, several tars, a zip, a folder
with labels.csv, Parquet by the library datasets) takes its turn in every round beside torchvision's ImageFolder with
its RandomResizedCrop, so that what else the machine does meets all of them; ``ratio`` is ours over torchvision's images
a second of processor time, the median over the rounds, and above 1 where ours are more.

``open`` makes so many small JPEGs in 1,000 class folders, and opens them in processes of their own, as a training
does: listed, every header looked at, every file hashed. The first time all is read, the second time the index beside
the data is. Prints one JSON line each; sizes of ImageNet are by proportion (1,281,167 files).
"""

import argparse
import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

IMAGENET = 1_281_167
WORDS = ("cat", "dog")

#: Opens the data of a training in a process of its own; "names" is the first of its steps.
OPEN = """
import json, resource, sys, time
from pathlib import Path
from nas_zoo.data.fingerprint import FileIndex, fingerprint
from nas_zoo.data.listing import list_images
from nas_zoo.data.named import open_parts
place = Path(sys.argv[1])
imported_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
cpu, begun = time.process_time(), time.perf_counter()
count = len(list_images(place).files)
listed = time.perf_counter()
parts = open_parts(place, ("train",), test_data=place, image_size=224, stream=True)
opened = time.perf_counter()
fingerprint(parts["train"], FileIndex(None))
ended = time.perf_counter()
seconds = {"names_s": listed - begun, "open_s": opened - listed, "hash_s": ended - opened, "all_s": ended - begun,
           "all_cpu_s": time.process_time() - cpu}
print(json.dumps({"files": count, **{name: round(value, 2) for name, value in seconds.items()},
                  "imported_mb": imported_mb, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""
TORCHVISION = """
import json, resource, sys, time
from torchvision.datasets import ImageFolder
imported_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
cpu, begun = time.process_time(), time.perf_counter()
count = len(ImageFolder(sys.argv[1]))
print(json.dumps({"files": count, "names_s": round(time.perf_counter() - begun, 2),
                  "names_cpu_s": round(time.process_time() - cpu, 2), "imported_mb": imported_mb,
                  "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
"""


def photograph(number: int) -> bytes:
    """500 x 375 pixels with edges and grain, about 45 kB."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    grain = Image.fromarray(rng.integers(0, 256, (375, 500, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(1.0))
    stream = io.BytesIO()
    Image.blend(coarse, grain, 0.35).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_forms(place: Path, files: dict[str, bytes]) -> dict[str, Any]:
    """The same pictures in each form: what --data takes, by the form's name."""
    forms: dict[str, Any] = {"folder": place / "folder", "tar": place / "all.tar", "zip": place / "all.zip"}
    for name, data in files.items():
        (place / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "folder" / name).write_bytes(data)

    def tar(path: Path, names: list[str]) -> Path:
        with tarfile.open(path, "w") as archive:
            for name in names:
                archive.add(place / "folder" / name, name)
        return path

    tar(forms["tar"], list(files))
    forms["3 tars"] = ",".join(str(tar(place / f"part{n}.tar", list(files)[n::3])) for n in range(3))
    with zipfile.ZipFile(forms["zip"], "w") as archive:
        for name in files:
            archive.write(place / "folder" / name, name)
    table = place / "table"
    table.mkdir()
    with open(table / "labels.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "label"])
        for number, (name, data) in enumerate(files.items()):
            (table / f"{number}.jpg").write_bytes(data)
            writer.writerow([f"{number}.jpg", name.partition("/")[0]])
    forms["labels.csv"] = table
    try:
        import datasets
    except ImportError:
        return forms
    datasets.disable_progress_bars()
    columns = {"image": [{"bytes": data, "path": None} for data in files.values()],
               "label": [WORDS.index(name.partition("/")[0]) for name in files]}  # fmt: skip
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WORDS))})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(place / "all.parquet"))
    return forms | {"Parquet": place / "all.parquet"}


def decode(count: int, rounds: int) -> dict[str, Any]:
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    from nas_zoo.data.augment import Augment
    from nas_zoo.data.batches import _Decoding
    from nas_zoo.data.named import open_source
    from nas_zoo.runs.facts import run_facts

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ["HF_HOME"] = str(place / "cache")
        files = {f"{WORDS[i % 2]}/{i:05}.jpg": photograph(i) for i in range(count)}
        forms = write_forms(place, files)

        def reader(augment: Augment, data: Any) -> Callable[[int], object]:
            source = open_source(data, test_data=data, image_size=224, stream=True)
            decoding = _Decoding(source, 224, augment, 0, source.mean)
            return lambda i: decoding[(0, i)]

        crop = transforms.Compose([transforms.RandomResizedCrop(224), transforms.PILToTensor()])
        folder = ImageFolder(str(forms["folder"]), crop)
        crops = Augment(random_resized_crop=True)
        readers: dict[str, Callable[[int], object]] = {"torchvision": lambda i: folder[i]}
        readers |= {form: reader(crops, data) for form, data in forms.items()}
        jittered = transforms.Compose(
            [transforms.RandomResizedCrop(224), transforms.ColorJitter(0.4, 0.4, 0.4, 0.2), transforms.PILToTensor()]
        )
        folder_jittered = ImageFolder(str(forms["folder"]), jittered)
        readers["torchvision, colour jitter"] = lambda i: folder_jittered[i]
        jitter = Augment(random_resized_crop=True, color_jitter=0.4, hue_jitter=0.2)
        readers["folder, colour jitter"] = reader(jitter, forms["folder"])
        readers["folder, RandAugment"] = reader(
            Augment(random_resized_crop=True, rand_augment="rand-m9-mstd0.5"), forms["folder"]
        )
        seconds: dict[str, list[float]] = {form: [] for form in readers}
        for turn in range(rounds + 1):
            for form, read in readers.items():
                begun = time.process_time()  # of this process alone, on a machine that others use too
                for i in range(count):
                    read(i)
                if turn:  # the first one fills the caches
                    seconds[form].append(time.process_time() - begun)
        rates = {
            form: {
                "images_per_s_core": round(count / statistics.median(each), 1),
                "ratio": round(statistics.median(a / b for a, b in zip(seconds["torchvision"], each, strict=True)), 3),
            }
            for form, each in seconds.items()
        }
        mean_bytes = sum(map(len, files.values())) // count
    facts = run_facts(torch.device("cpu"))
    return {"kind": "decode", "n": count, "rounds": rounds, "mean_bytes": mean_bytes, "forms": rates,
            "imagenet_epoch_core_hours": round(IMAGENET / rates["folder"]["images_per_s_core"] / 3600, 2),
            **{key: facts[key] for key in ("device_name", "versions", "command")}}  # fmt: skip


def open_large(count: int, pause: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "data"
        small = []
        for number in range(64):
            stream = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(stream, "JPEG")
            small.append(stream.getvalue())
        for label in range(1000):
            (place / f"n{label:08}").mkdir(parents=True)
            for number in range(count // 1000):
                (place / f"n{label:08}" / f"n{label:08}_{number}.JPEG").write_bytes(small[(label + number) % 64])
        time.sleep(pause)  # what changed less than two seconds ago is not believed to stay

        def run(script: str) -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, "-c", script, str(place)], check=True, capture_output=True, text=True
            )
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found

        first, second, torchvision = run(OPEN), run(OPEN), run(TORCHVISION)
        third = run(OPEN)
        index = sum(path.stat().st_size for path in Path(name).glob(".data*")) // 2**20
        shutil.rmtree(place)
    factor = IMAGENET / first["files"]
    return {"kind": "open", "first": first, "second": second, "third": third, "torchvision": torchvision,
            "index_mb": index, "imagenet_by_proportion": {
                "first_all_s": round(factor * first["all_s"], 1), "second_all_s": round(factor * third["all_s"], 1),
                "second_all_cpu_s": round(factor * third["all_cpu_s"], 1),
                "second_names_s": round(factor * third["names_s"], 1), "index_mb": round(factor * index)}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("decode", "open"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=200_000)
    given = parser.parse_args()
    found = decode(given.images, given.rounds) if given.what == "decode" else open_large(given.files, 3.0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
