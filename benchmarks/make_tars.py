r"""Makes the tars that searches and trainings here ran on from what people download: small JPEG files in class folders.

    python benchmarks/make_tars.py cifar10 --train-to cifar10-jpeg-train.tar.xz --test-to cifar10-jpeg-test.tar.xz
    python benchmarks/make_tars.py imagenette2-320 --size 224 --train-limit 600 \
        --train-to imagenette224-train.tar --test-to imagenette224-val.tar

The data set may be whatever `nas-zoo train --data` takes. Images of a class stand in the data set's own order, or in
that of their files' names, as CLASS/0000.jpg, CLASS/0001.jpg ...; with --size the shorter side is resized to so many
pixels and the middle is kept. Two runs write the same bytes, where Pillow and its JPEG library are the same.
"""

import io
import sys
import tarfile
from pathlib import Path

from PIL import Image

from nas_zoo.data.named import open_parts
from nas_zoo.data.sources import ImageSource
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_bytes
from nas_zoo.runs.settings import Parser, whole


def in_tar(source: ImageSource, path: Path, quality: int, limit: int | None) -> int:
    """Writes the tar (.tar, .tar.gz, .tar.xz); of each class at most `limit` images. How many there are is returned."""
    packing = {".xz": "w:xz", ".gz": "w:gz"}.get(path.suffix, "w:")
    packed, count = io.BytesIO(), 0
    with tarfile.open(fileobj=packed, mode=packing, format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
        for label, name in enumerate(source.classes):
            for number, i in enumerate((source.labels == label).nonzero()[0][:limit]):
                pixels, encoded = source.image(int(i)), io.BytesIO()
                # 4:2:0, as the JPEG library does by itself at this quality and as photographs mostly are
                Image.fromarray(pixels.squeeze()).save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
                member = tarfile.TarInfo(f"{name}/{number:04d}.jpg")
                member.size = encoded.tell()
                archive.addfile(member, io.BytesIO(encoded.getvalue()))
                count += 1
    write_bytes(path, packed.getvalue())
    return count


@program("make_tars.py")
def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="make_tars.py", description=__doc__)
    parser.add_argument("data", help="cifar10, cifar100, digits, a folder, tar or zip")
    parser.add_argument("--data-root", type=Path, help="folder of cifar10 and cifar100 (default: a cache; fetched)")
    parser.add_argument("--train-to", type=Path, required=True, help="tar to write of the training images")
    parser.add_argument("--test-to", type=Path, required=True, help="tar to write of the test (or val) images")
    parser.add_argument("--size", type=whole(1), help="side in pixels (default: their own up to 64, else 224)")
    parser.add_argument("--train-limit", type=whole(1), help="training images of a class at most (default: all)")
    parser.add_argument("--quality", type=whole(1), default=75, help="of the JPEG files (default: 75)")
    options = parser.parse_args(argv)
    parts = open_parts(options.data, ("train", "test"), root=options.data_root, image_size=options.size, stream=True)
    for part, path, limit in (("train", options.train_to, options.train_limit), ("test", options.test_to, None)):
        count = in_tar(parts[part], path, options.quality, limit)
        print(f"{path}: {count:,} images of {parts[part].num_classes} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
