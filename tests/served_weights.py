"""Weights of others from a server on loopback: of their rows only link and hash are replaced, by a made file's."""

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_zoo.genotype import load_genotype
from nas_zoo.models import public
from nas_zoo.models.catalog import DATA, MODELS
from tests.file_server import FileServer
from tests.original_darts import original

Publish = Callable[..., None]


@contextlib.contextmanager
def served(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """put(NAME, content, legacy=False): from then on the link of NAME leads to that; `cache` is torch's cache."""
    monkeypatch.setenv("TORCH_HOME", str(cache))
    rows = list(public.public_weights())
    with FileServer({}) as server:

        def put(name: str, content: Any, legacy: bool = False, **more: Any) -> None:
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=not legacy)
            data = file.getvalue()
            server.files[f"{name}.pt"] = data
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            place = next(i for i, row in enumerate(rows) if row.tag and row.name == name)
            own = {"link": server.link(f"{name}.pt"), "git_blob": blob, "md5": ""}
            rows[place] = dataclasses.replace(rows[place], **own | more)

        monkeypatch.setattr(public, "public_weights", lambda: tuple(rows))
        put.server = server  # type: ignore[attr-defined]
        yield put


def theirs_of(name: str, **how: Any) -> nn.Module:
    """The network of a row's authors at its full size, with weights made up."""
    model = MODELS[name.split(".")[0]]
    data = DATA[model["data"]]
    size = (model.get("init_channels", data.init_channels), data.num_cells, data.num_classes)
    return original(load_genotype(model["cell"]), data.layout, *size, **how)
