"""A thousand damaged inputs for each way in: a genotype comes out, or one line that says what is wrong."""

import json

import pytest

from nas_zoo.genotype import Genotype, as_genotype, genotype_record, load_genotype
from tests.fuzz import mutated, overwrite, problems_of
from tests.genotype.test_reading import ENAS, FORMS, MODULE, NB201

RECORD = genotype_record("darts_v2")
JSON_TEXTS = [
    json.dumps(RECORD).encode(),
    load_genotype("darts_v2").to_json(2).encode(),
    json.dumps(load_genotype("nasnet_a")).encode(),
]
TEXTS = [*(form.encode() for form in FORMS.values()), MODULE.encode(), ENAS.encode(), NB201.encode(), *JSON_TEXTS]


def text_of(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def read_json_value(data: bytes) -> None:
    try:
        value = json.loads(text_of(data))
    except (ValueError, RecursionError) as error:
        raise ValueError("no JSON") from error
    as_genotype(value if isinstance(value, (dict, list)) else [value])


@pytest.mark.parametrize(
    ("read", "samples"),
    [
        (Genotype.from_json, JSON_TEXTS),
        (lambda data: Genotype.from_darts(text_of(data)), [text for text in TEXTS if b"Genotype(" in text]),
        (as_genotype, TEXTS),
        (read_json_value, [text for text in TEXTS if text.startswith((b"{", b"["))]),
    ],
    ids=["from_json", "from_darts", "as_genotype", "values"],
)
def test_a_thousand_damaged_texts_are_read_or_refused_in_one_line(read, samples):
    assert problems_of(read, mutated(samples, 1000, seed=16)) == []


def test_a_thousand_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "found.txt"

    def read(data: bytes) -> None:
        overwrite(path, data)
        load_genotype(f"{path}:SECOND" if data.startswith(b"from") else path)

    assert problems_of(read, mutated(TEXTS, 1000, seed=17)) == []
