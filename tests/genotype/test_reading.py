"""Genotypes as they lie about: the forms of real logs, modules, exports and pages, with cells of our own in them."""

import json
import os

import numpy as np
import pytest
import torch

from nas_zoo.genotype import Genotype, as_genotype, load_genotype
from nas_zoo.genotype.dialects.python_text import bracketed, calls_of, literal
from tests.genotype.test_dialects import CONFIG as NB301
from tests.genotype.test_dialects import NORMAL, PREFIX, REDUCE

CALL = f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCE}, reduce_concat=range(2, 6))"
EXPECTED = Genotype.from_darts(CALL)
OTHER_CALL = CALL.replace("'sep_conv_5x5', 1", "'skip_connect', 1")
OTHER = Genotype.from_darts(OTHER_CALL)
FIELDS = {"normal": NORMAL, "normal_concat": range(2, 6), "reduce": REDUCE, "reduce_concat": range(2, 6)}


def with_numpy(text: str, scalar: str = "np.int64({})") -> str:
    for source in range(5):
        text = text.replace(f"', {source})", f"', {scalar.format(source)})")
    return text


def array_of(edges: list[tuple[str, int]]) -> str:
    return repr(np.array([[operation, str(source)] for operation, source in edges]))


ARRAYS = (
    f"Genotype(normal={array_of(NORMAL)}, normal_concat=array([2, 3, 4, 5]), "
    f"reduce={array_of(REDUCE)}, reduce_concat=np.array([2, 3, 4, 5], dtype=np.int64))"
)
# quark0/darts: the log of train_search.py, and what train.py was started with
LOG = f"""03/14 09:26:53 PM gpu device = 0
03/14 09:26:53 PM args = Namespace(arch='DARTS', auxiliary=False, data='../data', drop_path_prob=0.2, seed=0)
03/14 09:26:55 PM param size = 1.930618MB
03/14 09:27:01 PM genotype = {CALL}
03/14 09:27:03 PM train 000 2.305 12.500000 45.312500
"""
STAMPS = [
    "2021-05-26 13:14:40,310 - INFO - genotype = ",
    "[2024-01-31 08:00:00] [INFO] Genotype: ",
    "INFO:root:epoch 49: best genotype is ",
    "    genotype = ",
    "# best so far (don't lose it): ",
    "it's the best [epoch #3, (top-1 97.24 %)] -> ",
    '"',
    "`",
    "genotypes.DARTS_V2 = gt.",
    "DARTS",
]
WRAPPED = CALL.replace(", ", ",\n    ")
COMMENTED = CALL.replace("), (", "),  # why: it's (better\n   (")
MARKDOWN = f"""# Results

We don't tune (much): see [the paper](http://example.org/paper(1).pdf). The cell that was found:

```python
from genotypes import Genotype  # {{

BEST = {WRAPPED}
```
"""
JSON_FIELDS = {key: list(value) for key, value in FIELDS.items()}
MARKDOWN_JSON = (
    f"# Cells\n\nIt's (of course) these:\n\n```json\n{json.dumps(JSON_FIELDS, indent=1)}\n```\n\n* [x] done\n"
)
NB301_RESULT = {"budget": 100, "optimized_hyperparamater_config": NB301, "info": [{"val_accuracy": 93.2}]}
NB301_NESTED = {"darts": {key.removeprefix(PREFIX): value for key, value in NB301.items()}, "seed": 1}
NNI1_NAMES = ["maxpool", "avgpool", "skipconnect", "sepconv3x3", "sepconv5x5", "dilconv3x3", "dilconv5x5"]
OPERATIONS = ["max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
              "dil_conv_5x5"]  # fmt: skip


def nni1(operation, switch) -> dict:
    """EXPECTED as the DARTS example of NNI exports it; `operation` says one, `switch` the two sources."""
    record: dict = {}
    for kind, edges in (("normal", NORMAL), ("reduce", REDUCE)):
        for node in range(2, 6):
            pairs = {source: name for name, source in edges[2 * node - 4 : 2 * node - 2]}
            for source in range(node):
                found = operation(OPERATIONS.index(pairs[source])) if source in pairs else []
                record[f"{kind}_n{node}_p{source}"] = found
            record[f"{kind}_n{node}_switch"] = switch(f"{kind}_n{node}", list(pairs), node)
    return record


def labels(node: str, sources: list[int], _: int) -> list[str]:
    return [f"{node}_p{source}" for source in sources]


NNI1 = nni1(NNI1_NAMES.__getitem__, labels)
NNI1_NUMBERS = nni1(lambda number: number, lambda node, sources, _: sources)
NNI1_FLAGS = nni1(
    lambda number: [i == number for i in range(7)], lambda node, sources, n: [i in sources for i in range(n)]
)
NNI1_NO_SWITCH = {key: value for key, value in NNI1.items() if not key.endswith("switch")}
NASLIB = tuple(tuple((source, OPERATIONS.index(name)) for name, source in edges) for edges in (NORMAL, REDUCE))


def notebook(*cells: dict) -> str:
    return json.dumps({"cells": list(cells), "metadata": {"language_info": {"name": "python"}}, "nbformat": 4,
                       "nbformat_minor": 5}, indent=1)  # fmt: skip


TEXT_CELL = {"cell_type": "markdown", "metadata": {}, "source": ["# The best cells {we} found\n", "Don't lose them."]}
SHOWING = {"cell_type": "code", "execution_count": 1, "metadata": {}, "source": ["print(model.genotype())"]}
LINES = WRAPPED.splitlines(keepends=True)
NOTEBOOKS = {
    "in a cell": notebook(TEXT_CELL, {**SHOWING, "source": ["BEST = ", *LINES], "outputs": []}),
    "in a cell as one text": notebook(TEXT_CELL, {**SHOWING, "source": f"BEST = {WRAPPED}", "outputs": []}),
    "printed": notebook(
        TEXT_CELL,
        {**SHOWING, "outputs": [{"name": "stdout", "output_type": "stream", "text": ["epoch 49\n", *LINES]}]},
    ),
    "shown": notebook(
        TEXT_CELL,
        {**SHOWING, "outputs": [{"data": {"text/plain": LINES, "image/png": "iVBORw0"}, "execution_count": 1,
                                 "metadata": {}, "output_type": "execute_result"}]},
    ),
}  # fmt: skip

FORMS = {
    "a log of a search": LOG,
    "numpy scalars in a repr": with_numpy(CALL),
    "torch scalars in a repr": with_numpy(CALL, "tensor({}, device='cuda:0')"),
    "numpy arrays in a repr": ARRAYS,
    "confopt": f"DARTS{CALL}",
    "confopt, as JSON": json.dumps({"epoch": 99, "genotype": f"DARTS{CALL}"}),
    "confopt, a shell script": f'#!/bin/bash\nsearchspace="darts"\n\ngenotypes=(\n  "DARTS{CALL}"\n)\n',
    "a printed dictionary": repr(FIELDS),
    "a printed dictionary with numpy scalars": with_numpy(repr(FIELDS)),
    "a printed OrderedDict": f"OrderedDict({list(FIELDS.items())})",
    "a dictionary in a log line": f"07/02 12:00:00 AM [best] arch: {FIELDS} (97.1 %)",
    "reduction for reduce": repr(FIELDS).replace("reduce", "reduction"),
    "Markdown": MARKDOWN,
    "JSON in Markdown": MARKDOWN_JSON,
    "JSON in Windows' Markdown": MARKDOWN_JSON.replace("\n", "\r\n"),
    "lines of JSON": '{"epoch": 1}\n' + json.dumps(JSON_FIELDS) + '\n{"top1": 97.1}\n',
    "NAS-Bench-301's results": json.dumps(NB301_RESULT),
    "NAS-Bench-301, nested": json.dumps(NB301_NESTED),
    "NAS-Bench-301, printed": f"best config: {NB301}",
    "NNI 1.x": json.dumps(NNI1, indent=2),
    "NNI 2.0, numbers": json.dumps(NNI1_NUMBERS),
    "NNI 1.x, flags": json.dumps({"best_selected_space": NNI1_FLAGS}),
    "NNI 1.x, no switch": json.dumps(NNI1_NO_SWITCH),
    "NNI 1.x in Markdown": f"```json\n{json.dumps(NNI1, indent=2)}\n```",
    "NASLib": str(NASLIB),
    "NASLib, JSON": json.dumps(NASLIB),
    "NASLib, a log line": f"[07/02 12:00:00 nl.optimizers]: Queried arch hash: {NASLIB}, accuracy 93.1",
    "deep in a result": json.dumps({"runs": [{"best": {"arch": {"seed": 1, "text": CALL}}}]}),
    "twice the same": f"epoch 1: {CALL}\nepoch 2: {CALL}\n",
    "Python 2's repr": CALL.replace("('", "(u'"),
    "a command line": f'python train.py --auxiliary --arch "{CALL}" --cutout',
    "a YAML file's value": f'epochs: 600\ngenotype: "{CALL}"\n',
    "a table in Markdown": f"| net | cells |\n| --- | --- |\n| ours | `{CALL}` |\n",
    "a class's attribute": f"class Cells:\n    best = {CALL}\n",
    "a field more that is None": f"{CALL[:-1]}, alphas_normal=None)",
} | {f"after {stamp!r}": f"{stamp}{CALL}" for stamp in STAMPS}
FORMS |= {f"a notebook, {where}": text for where, text in NOTEBOOKS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_genotype_is_read_as_it_lies_about(form, tmp_path):
    path = tmp_path / "found.txt"
    path.write_bytes(FORMS[form].encode())
    assert load_genotype(path).digest == EXPECTED.digest
    if not form.startswith("after"):
        assert as_genotype(FORMS[form] if form.startswith(("Mark", "a log")) else path) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_the_encodings_that_windows_writes_are_read(encoding, tmp_path):
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    (tmp_path / "cells.txt").write_bytes((mark + LOG.replace("\n", "\r\n")).encode(encoding))
    assert load_genotype(tmp_path / "cells.txt") == EXPECTED


def test_a_notebook_without_cells_or_with_several_says_so(tmp_path):
    (tmp_path / "a.ipynb").write_text(notebook(TEXT_CELL))
    with pytest.raises(ValueError, match="no call of Genotype"):
        load_genotype(tmp_path / "a.ipynb")
    (tmp_path / "a.ipynb").write_text(notebook({**SHOWING, "source": [f"A = {CALL}\n", f"B = {OTHER_CALL}"]}))
    with pytest.raises(ValueError, match=r"2 different genotypes: A, B; say which, as a.ipynb:B"):
        load_genotype(tmp_path / "a.ipynb")
    assert load_genotype(f"{tmp_path / 'a.ipynb'}:B") == OTHER


@pytest.mark.parametrize(
    "value",
    [
        {key: np.array(list(value), dtype=object) for key, value in FIELDS.items()},
        FIELDS | {"normal": [(operation, np.int64(source)) for operation, source in NORMAL]},
        FIELDS | {"normal_concat": torch.arange(2, 6)},
        NNI1, NNI1_NUMBERS, NNI1_FLAGS, NB301_RESULT, NB301_NESTED, NASLIB, {"arch": NASLIB},
    ],
    ids=range(10),
)  # fmt: skip
def test_a_value_of_python_is_read(value):
    assert as_genotype(value) == EXPECTED


# ENAS: cells of five nodes, (source, operation) twice a node
ENAS = "0 2 0 0 0 4 1 1 0 4 1 1 1 0 0 1 0 2 1 1 1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
ENAS_NORMAL, ENAS_REDUCE = " ".join(ENAS.split()[:20]), " ".join(ENAS.split()[20:])


@pytest.mark.parametrize(
    "text",
    [
        ENAS,
        ENAS.replace(" ", ", "),
        f"[{ENAS.replace(' ', ', ')}]",
        f"[{ENAS_NORMAL}]\n[{ENAS_REDUCE}]\nval_acc=0.8125\n",
        f'#!/bin/bash\nfixed_arc="{ENAS_NORMAL}"\nfixed_arc="$fixed_arc {ENAS_REDUCE}"\npython main.py --epochs=630\n',
        f"python main_child_trainer.py --child_fixed_arc '{ENAS}'",
    ],
)
def test_enas_micro_lists_are_read(text, tmp_path):
    path = tmp_path / "arc.sh"
    path.write_text(text)
    cell = load_genotype(path)
    assert as_genotype(text) == cell
    assert cell.normal.nodes[:2] == (
        (("avg_pool_3x3", 0), ("sep_conv_3x3", 0)),
        (("skip_connect", 0), ("sep_conv_5x5", 1)),
    )
    assert cell.normal.concat == (2, 3, 4, 5, 6)  # no node reads another
    assert cell.reduce.nodes[2] == (("sep_conv_5x5", 1), ("sep_conv_5x5", 3))
    assert cell.reduce.concat == (2, 4, 5, 6)  # node 4 reads node 3


def test_an_enas_cell_that_no_genotype_can_say_is_refused():
    numbers = [int(number) for number in ENAS.split()]
    for i in range(0, 20, 2):
        numbers[i] = 0
    with pytest.raises(ValueError, match="normal cell: input 1 is read by no node, and ENAS then concatenates it"):
        as_genotype(numbers)
    with pytest.raises(ValueError, match="node 2: 5 is no operation; there are 0 sep_conv_3x3"):
        as_genotype([0, 5, *numbers[2:]])


# Several in one file --------------------------------------------------------------------------------------------------

MODULE = f"""from collections import namedtuple

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')
PRIMITIVES = ['none', 'max_pool_3x3']  # don't count (these

def parse(weights):
  gene = Genotype(normal=read(weights), normal_concat=range(2, 6), reduce=read(weights), reduce_concat=range(2, 6))
  return gene

# OLD = {CALL.replace("sep_conv_3x3", "sep_conv_7x7")}
FIRST = {OTHER_CALL}
SECOND = {COMMENTED}

FOUND = SECOND
ODD = Genotype(normal=[('conv_1x1', 0), ('sep_conv_3x3', 1)], normal_concat=[2], reduce=[], reduce_concat=[2])
"""


def test_a_module_with_several_asks_which_and_takes_a_name(tmp_path):
    path = tmp_path / "genotypes.py"
    path.write_text(MODULE)
    with pytest.raises(ValueError, match=r"FIRST, SECOND, FOUND, ODD; say which, as genotypes\.py:ODD") as caught:
        load_genotype(path)
    assert "\n" not in str(caught.value)
    assert load_genotype(f"{path}:FIRST") == as_genotype(f"{path}:FIRST") == OTHER
    assert load_genotype(f"{path}:SECOND") == load_genotype(f"{path}:FOUND") == EXPECTED
    line = MODULE[: MODULE.index("FIRST")].count("\n") + 1
    assert load_genotype(f"{path}:{line}") == OTHER
    with pytest.raises(ValueError, match=r"line \d+, column 25 \(node 2\): unknown operation 'conv_1x1'"):
        load_genotype(f"{path}:ODD")
    with pytest.raises(ValueError, match=r"there are FIRST, SECOND, FOUND, ODD \(near: SECOND\)"):
        load_genotype(f"{path}:SECOMD")
    with pytest.raises(ValueError, match="no such file"):
        load_genotype(f"{tmp_path / 'genotype.py'}:FIRST")
    odd = tmp_path / "a:b"
    odd.write_text(CALL)
    assert load_genotype(odd) == EXPECTED  # a file may have such a name


def test_a_log_of_several_epochs_asks_for_the_line(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(LOG + LOG.replace(CALL, OTHER_CALL))
    with pytest.raises(ValueError, match=r"2 different genotypes: line 4, line 9; say which, as log\.txt:9"):
        load_genotype(path)
    assert load_genotype(f"{path}:4") == EXPECTED
    assert load_genotype(f"{path}:9") == OTHER
    path.write_text("\n".join(json.dumps(JSON_FIELDS | {"name": name}) for name in "ab").replace("dil_", "sep_", 1))
    with pytest.raises(ValueError, match=r"line 1, line 2; say which, as log\.txt:2"):
        load_genotype(path)
    assert load_genotype(f"{path}:2") == EXPECTED


def test_a_dictionary_of_several_takes_the_key(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"first": {"arch": OTHER_CALL}, "second": NB301, "note": "Genotype"}))
    with pytest.raises(ValueError, match=r"first\.arch, second; say which, as result\.json:second"):
        load_genotype(path)
    assert load_genotype(f"{path}:first.arch") == OTHER
    assert load_genotype(f"{path}:second") == EXPECTED
    with pytest.raises(ValueError, match=r"first\.arch, second"):
        as_genotype(json.loads(path.read_text()))


# What is refused ------------------------------------------------------------------------------------------------------

NB201 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"


@pytest.mark.parametrize("value", [NB201, f"arch: {NB201}\n", {"arch": NB201}, json.dumps({"arch_str": NB201})])
def test_nas_bench_201_is_known_and_refused_as_another_space(value, tmp_path):
    with pytest.raises(ValueError, match=r"NAS-Bench-201 architecture.*cannot be built here"):
        as_genotype(value)
    path = tmp_path / "arch"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(ValueError, match="NAS-Bench-201 architecture"):
        load_genotype(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (NNI1 | {"normal_n3_p0": "sepconv9x9"}, "key normal_n3_p0: unknown operation 'sepconv9x9'"),
        (NNI1 | {"normal_n3_p0": 9}, "key normal_n3_p0: 9 is no operation; there are 0 maxpool"),
        (NNI1 | {"normal_n3_p0": ["maxpool", "avgpool"]}, "key normal_n3_p0 must choose one operation"),
        (NNI1 | {"normal_n3_switch": ["normal_n3_p1"]}, "key normal_n3_switch must name labels that have an operation"),
        (NNI1 | {"normal_n3_switch": [{}]}, "normal_n3_p0, got {}"),
        (NNI1 | {"reduce_n9_p0": []}, "NNI 1.x export, reduce: there must be 1 to 8 nodes"),
        ({key: value for key, value in NNI1.items() if "reduce" not in key}, "reduce: .* got nodes none"),
        ((NASLIB[0], ((0, 7), *NASLIB[1][1:])), r"NASLib compact, reduce\[0\]: 7 is no operation; there are 0"),
        ((NASLIB[0], ((5, 1), *NASLIB[1][1:])), r"NASLib compact, reduce\[0\]: wrong node|reduce\[0\]: cycle"),
        ({"normal_concat": [2]} | {"a": 1}, "unknown key 'a'"),
        ("{'normal': 1, 'b'", "Python text, line 1"),
        ("{'normal': open('x')}", "Call is no literal"),
        ("{'normal': OrderedDict(5)}", "Call is no literal"),
        ("prose {'normal': [], 'normal_concat': [2]} " + "x" * 50, "DARTS text, line 1"),
        (CALL.replace("3)]", "3), ]").replace("('sep_conv_5x5', 1)", "('sep_conv_5x5', ...)"), "Ellipsis: only lists"),
        (CALL.replace("normal=", "normal=np.int64("), "DARTS text, line 1"),
    ],
)  # fmt: skip
def test_mistakes_name_the_dialect_and_the_place(value, words, tmp_path):
    path = tmp_path / "x"
    path.write_text(value if isinstance(value, str) else "")
    with pytest.raises(ValueError, match=words) as caught:
        as_genotype(path if isinstance(value, str) else value)
    assert "\n" not in str(caught.value)
    assert "accept" not in str(caught.value)


def test_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (
        "__import__('os').mkdir('trap')\n",
        f"os.mkdir('trap')\n{CALL.replace('range(2, 6)', 'os.mkdir(1)', 1)}",
        "{'normal': os.mkdir('trap')}",
        "array(os.mkdir('trap'))",
        "[np.int64(os.mkdir('trap')), {'normal_concat': 1, **os.mkdir('trap')}]" + " " * 40,
    ):
        (tmp_path / "found.py").write_text(text)
        for read in (as_genotype, load_genotype):
            with pytest.raises(ValueError, match=r"."):
                read(tmp_path / "found.py")
    assert os.listdir() == ["found.py"]


def test_literals_and_brackets():
    assert literal("{'a': [np.float32(1.5), -1, None, True], 2: (array([1]), range(2))}") == {
        "a": [1.5, -1, None, True],
        2: ([1], range(2)),
    }
    assert bracketed("don't (count ')') {it's} [1)] (2)") == [(6, 17), (18, 24), (30, 33)]
    assert [call.names for call in calls_of("A = B = gt.Genotype(1)\nC = A\nGenotype (2)", "Genotype")] == [
        ("A", "B", "C"),
        (),
    ]


def test_a_huge_or_deep_text_is_refused_in_little_time():
    size = 1 << 18
    for unit in ("(", "Genotype(", "'\\'", "#(", "a=", "[{'", "{'a':", '"\\"[', "1 ", "|a~1", "A = B\n", "np.int64("):
        with pytest.raises(ValueError, match=r"."):
            as_genotype("{'a': 1} Genotype( " + unit * (size // len(unit)))
        with pytest.raises(ValueError, match=r"."):
            as_genotype("{" + unit * (size // len(unit)))


@pytest.mark.parametrize("name", ["Genotype (1).json", "[best] cells.json", "{x}.json:found"])
def test_a_file_whose_name_looks_like_a_genotype_is_opened(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name.removesuffix(":found")).write_text(json.dumps({"found": CALL}))
    assert as_genotype(name) == EXPECTED
