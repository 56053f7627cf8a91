"""timm's own scripts with our models: they build models by name, and know only those that somebody has registered.

    git clone --depth 1 https://github.com/huggingface/pytorch-image-models
    nas-zoo timm pytorch-image-models/validate.py --model edas_e8_in1k.imagenette_e20_r128 --data-dir ...
    nas-zoo timm --scripts pytorch-image-models benchmark.py --model edas_c10 --bench inference
    torchrun --nproc-per-node 4 -m nas_zoo timm pytorch-image-models/train.py --model edas_in1k ...

train.py, validate.py, benchmark.py, inference.py and the others stand in timm's repository; its wheel and its source
distribution leave them out. Any script that asks timm for a model may be run so. What stands behind the script is the
script's; it is run as `python SCRIPT ...` runs it, with its folder first among those where modules are looked for.
"""

import argparse
import runpy
import sys
import traceback
from importlib.metadata import version
from pathlib import Path

from nas_zoo.runs.ending import program
from nas_zoo.runs.settings import Parser
from nas_zoo.text import near_names

__all__ = ["find_script", "main", "make_parser", "run_script"]

_REPOSITORY = "https://github.com/huggingface/pytorch-image-models"


#: At the top of timm's repository.
_SCRIPTS = (
    "train.py",
    "validate.py",
    "inference.py",
    "benchmark.py",
    "bulk_runner.py",
    "onnx_export.py",
    "onnx_validate.py",
)


def find_script(script: str, folder: Path | None = None) -> Path:
    """The file of that path, or of that name ("train.py" or "train") in the folder.

    Raises:
        ValueError: There is none, with where timm's are to be had.
    """
    place = Path(script) if folder is None else folder / script
    for file in (place, place.with_name(f"{place.name}.py")):
        if file.is_file():
            return file
    others = [*_SCRIPTS, *(file.name for file in place.parent.glob("*.py"))]
    near = "" if place.name in others else near_names(place.name, others)
    raise ValueError(
        f"there is no script {str(place)!r}{near}; timm's are in its repository alone: "
        f"git clone --depth 1 --branch v{version('timm')} {_REPOSITORY}, then give the path of one, or its name and "
        "--scripts FOLDER"
    )


def run_script(script: Path, words: list[str]) -> int:
    """The exit code of the script, run as Python's main program with these words."""
    before = sys.argv, sys.path[:]
    sys.argv, sys.path[:0] = [str(script), *words], [str(script.resolve().parent)]
    try:
        runpy.run_path(str(script), run_name="__main__")
        return 0
    except Exception:  # of somebody else's program: where it was is told as Python tells it
        traceback.print_exc()
        return 1
    finally:
        sys.argv, sys.path[:] = before


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo timm", description=__doc__)
    parser.add_argument("--scripts", type=Path, metavar="FOLDER", help="where a script is looked for by its name")
    parser.add_argument("script", metavar="SCRIPT", help="path of a script, or its name in that folder")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="flags and words of the script")
    return parser


@program("nas-zoo timm")
def main(argv: list[str] | None = None) -> int:
    """The program: the script's exit code, 1 for an error in it, 2 where there is no such script."""
    options = make_parser().parse_args(argv)
    return run_script(find_script(options.script, options.scripts), options.words)
