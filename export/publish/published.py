"""A trained model with the facts of its training: a published checkpoint by name, or the folder of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from nas_zoo.models import results
from nas_zoo.models.load import load_model
from nas_zoo.models.registry import find_result
from nas_zoo.models.results import Result
from nas_zoo.release.adopt import read_run, reference_tensors, result_of_run
from nas_zoo.runs.facts import published_log

__all__ = ["Checkpoint", "open_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """What a card, a repository and a demo are made from."""

    row: Result
    weights: Path  # a .safetensors file, its hash checked
    log: str  # of the training, without folders of the machine it ran on
    folder: Path | None  # of the run; None for a published checkpoint

    @property
    def title(self) -> str:
        """A name for people and folders: the model's, with its tag where that is not the model's default."""
        first = find_result(self.row.model)
        return self.row.model if self.folder is not None or first == self.row else self.row.name

    def model(self) -> Any:
        """The model with these weights, evaluating, float32."""
        if self.folder is not None:
            return load_model(str(self.folder))
        return timm.create_model(self.row.name, pretrained=True).eval()

    def reference(self) -> dict[str, Any]:
        """Images and logits, as published; of a run made here."""
        if self.folder is not None:
            return reference_tensors(self.model(), self.row.input_size)
        images, logits = results.read_reference(results.reference_path(self.row))
        return {"pixel_values": images, "logits": logits}


def open_checkpoint(name: str, *, license: str = "apache-2.0") -> Checkpoint:
    """The checkpoint that a user names: MODEL or MODEL.TAG of the package, or the folder of a run that has ended.

    Args:
        name: See above.
        license: Of the weights of a run; a published checkpoint has its own.

    Raises:
        ValueError: There is none of that name, it has no weights, or they are not the published ones.
    """
    folder = Path(name)
    if folder.is_dir():
        row = result_of_run(folder, license=license)
        return Checkpoint(row, folder / row.weights, published_log(read_run(folder).log), folder)
    found = find_result(name)
    if found is None:
        load_model(name)  # says what is wrong with the name
        raise ValueError(f"model {name!r}: a published checkpoint or the folder of a run is accepted")
    log = results.PACKAGE / "weights" / f"{found.name}.log.jsonl"
    text = log.read_text("utf-8") if log.is_file() else ""
    return Checkpoint(found, results.fetch_weights(found), text, None)
