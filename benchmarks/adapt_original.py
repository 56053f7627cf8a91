"""Whether weights trained on CIFAR-10 (JPEG) gain from a little training on original pixels.

    python benchmarks/adapt_original.py runs/darts_v2_c10_s --original FEW.npz --jpeg TRAIN.tar.xz --test TEST.tar.xz

FEW.npz holds `images` (N, 32, 32, 3) uint8 and `jpeg_member` (N,), the name of the same image in the tar of JPEG
training images. Every fifth image of a class is held out, the others train the network further: once in their original
pixels and once, as the control that tells more training from other pixels, as the JPEGs of the very same images. Prints
one JSON line with the accuracies of the weights as they were, adapted, and of the control: on the held-out images in
both forms, and on the JPEG test images.

The held-out images were among the JPEG training images of the weights, which saw all of them equally often: compare the
rows, which is what the script is for, and take none as an accuracy on unseen images.
"""

import argparse
import contextlib
import json
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from nas_zoo.runs.facts import run_facts
from nas_zoo.train import EvaluateSettings, TrainSettings, evaluate, train

HELD_OUT = 5  # one of so many images of a class
FORMS = ("original", "jpeg")


def write_images(original: Path, jpeg: Path, folder: Path) -> Counter[str]:
    """folder/<form>/<train or test>/<class>/<name>: each image in both forms; how many there are of each split."""
    count: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    place: dict[str, Path] = {}  # where the JPEG of this name goes
    with np.load(original, allow_pickle=False) as arrays:
        images_NHWC, members = arrays["images"], [str(name) for name in arrays["jpeg_member"]]
    for image_HWC, member in zip(images_NHWC, members, strict=True):
        label = Path(member).parent.name
        split = "test" if seen[label] % HELD_OUT == 0 else "train"
        seen[label] += 1
        count[split] += 1
        for form in FORMS:
            (folder / form / split / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_HWC).save(folder / "original" / split / label / f"{Path(member).stem}.png")
        place[f"{label}/{Path(member).name}"] = folder / "jpeg" / split / label / Path(member).name
    with tarfile.open(jpeg) as tar:
        for entry in tar:
            if target := place.pop("/".join(Path(entry.name).parts[-2:]), None):
                file = tar.extractfile(entry)
                assert file is not None, entry.name
                target.write_bytes(file.read())
    if place:
        raise SystemExit(f"{jpeg}: {len(place)} of the images are not in it, the first is {next(iter(place))}")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the trained model")
    parser.add_argument("--original", type=Path, required=True)
    parser.add_argument("--jpeg", type=Path, required=True, help="tar of the JPEG training images")
    parser.add_argument("--test", type=Path, required=True, help="tar of the JPEG test images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the adapted models; none: they are not kept")
    options = parser.parse_args()
    architecture = json.loads((options.run / "config.json").read_text())["architecture"]
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        count = write_images(options.original, options.jpeg, folder)
        models = {"as it was": options.run}
        for form in FORMS:
            settings = TrainSettings.from_recipe(
                "quick", model=architecture, init_weights=options.run / "model.safetensors",
                data=str(folder / form / "train"), test_data=str(folder / form / "test"), epochs=options.epochs,
                warmup_epochs=0, lr=options.lr, ema_decay=0.0, batch_size=options.batch_size, seed=options.seed,
                eval_every=0, out=(options.keep or folder) / f"adapted_{form}",
            )  # fmt: skip
            models[f"trained on {form}"] = train(settings).path
        tests = {
            "held out, original pixels": (folder / "original" / "train", folder / "original" / "test"),
            "held out, JPEG": (folder / "jpeg" / "train", folder / "jpeg" / "test"),
            "test, JPEG": (options.jpeg, options.test),
        }
        rows = {
            of: {
                test: evaluate(model, EvaluateSettings(data=str(data), test_data=str(held_out)))["top1"]
                for test, (data, held_out) in tests.items()
            }
            for of, model in models.items()
        }
    facts = run_facts()
    print(json.dumps({
        "model": architecture,
        "top1": rows,
        "n": {"train": count["train"], "held out": count["test"]},
        **{key: getattr(options, key) for key in ("epochs", "lr", "batch_size", "seed")},
        **{key: facts[key] for key in ("device_name", "threads", "versions", "commit")},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
