"""A thousand damaged weights files of each form: tensors come out, or one line that says what is wrong."""

import io
import random
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save

from nas_zoo.genotype import Genotype
from nas_zoo.models.convert import convert_state_dict
from nas_zoo.models.load import read_state_dict
from tests.fuzz import mutated, overwrite, problems_of
from tests.models.test_convert import BESIDE
from tests.original_darts import original


def saved(value: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def repacked(archive: bytes, pickled: bytes) -> bytes:
    """The archive of torch with another data.pkl."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
    return buffer.getvalue()


def pickle_of(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("/data.pkl")))


#: The least that is a network: the file is small, so that damage hits what matters.
POOLS = Genotype.from_darts("Genotype([('max_pool_3x3', 0), ('max_pool_3x3', 1)], [2], [[('max_pool_3x3', 0)]], [2])")
STATE = {key: value for key, value in original(POOLS, "cifar", 2, 3).state_dict().items() if "auxiliary" not in key}
WHOLE = saved(BESIDE | {"state_dict": STATE})
FORMS: dict[str, Callable[[], Iterable[bytes]]] = {
    "zip": lambda: mutated([WHOLE, saved(STATE)], 1000, seed=1),
    "pickle in a zip": lambda: (repacked(WHOLE, data) for data in mutated([pickle_of(WHOLE)], 1000, seed=2)),
    "before torch 1.6": lambda: mutated([saved(BESIDE | {"net": STATE}, zipped=False)], 1000, seed=3),
    "safetensors": lambda: mutated([save(STATE)], 1000, seed=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_thousand_damaged_weights_files_are_read_or_refused_in_one_line(form, tmp_path):
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")

    def read(data: bytes) -> None:
        overwrite(path, data)
        convert_state_dict(read_state_dict(path), POOLS)

    assert problems_of(read, FORMS[form]()) == []


TENSORS = [
    torch.zeros(()), torch.zeros(0), torch.zeros(0, 3, 1, 1), torch.zeros(10**9, 0), torch.zeros(1).expand(10**12),
    torch.zeros(1, dtype=torch.int64), torch.zeros(2, 2, 2, 2, 2), torch.zeros(2, dtype=torch.complex64),
    torch.zeros(6, 3, 3, 3, dtype=torch.bool), torch.full((10, 8), float("nan")), torch.zeros(3, device="meta"),
    torch.zeros(2, 2).to_sparse(), torch.zeros(7, 3, 3, 3), torch.zeros(4, 8),
]  # fmt: skip
VALUES: list[Any] = [None, 3, "x", 10**30, [], {}, {"model": {}}, (1, 2)]
NAMES = [
    0, 1.5, None, ("a", 1), "", "module.", "_orig_mod.", "cells.", "cells.999999999.preprocess0.op.1.weight",
    "cells.3.preprocess0.op.1.weight", "cells.00._ops.0.op.1.weight", "cells.0._ops.99999999999.op.1.weight",
    "stem1.1.weight", "stem0.0.weight", "classifier.weight", "stem.0.weight", "stem.0.conv.weight", "model", "net",
    "auxiliary_head.x", "\ud800", "a\nb", "\x1b[31m",
]  # fmt: skip


def forged(count: int, seed: int) -> Iterator[dict[Any, Any]]:
    """State dicts whose names and tensors were changed."""
    chance = random.Random(seed)
    for _ in range(count):
        state: dict[Any, Any] = dict(STATE)
        for _ in range(chance.choice((1, 1, 2, 3, 10))):
            key = chance.choice(list(state) or ["stem.0.weight"])
            kind = chance.randrange(4)
            if kind == 0:
                state.pop(key, None)
            elif kind == 1:
                state[chance.choice(NAMES)] = state.get(key, torch.zeros(1))
            elif kind == 2:
                state[chance.choice([key, *NAMES])] = chance.choice(TENSORS)
            elif chance.random() < 0.3:
                state[key] = chance.choice(VALUES)
        prefix = chance.choice(("", "", "module.", "model.", "net.module._orig_mod."))
        state = {prefix + key if isinstance(key, str) else key: value for key, value in state.items()}
        yield chance.choice((state, {"model": state}, {"net": {"state_dict": state}, "epoch": None}))


@pytest.mark.parametrize("genotype", [POOLS, "darts_v2"], ids=["its own", "another"])
def test_a_thousand_forged_state_dicts_are_converted_or_refused_in_one_line(genotype):
    problems = problems_of(lambda state: convert_state_dict(state, genotype), forged(1000, seed=5))
    assert problems == []


def test_a_key_whose_repr_has_several_lines_is_named_on_one(tmp_path):
    tensor = torch.arange(30.0)
    torch.save({tensor: tensor}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="must be names, got") as caught:
        read_state_dict(tmp_path / "weights.pt")
    assert str(caught.value).isprintable()
