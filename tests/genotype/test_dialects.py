"""Genotypes as other programs write them: samples written by hand, and what their mistakes say."""

import json
import re
from typing import Any

import pytest

from nas_zoo.genotype import Cell, Genotype, as_genotype, list_genotypes, load_genotype
from nas_zoo.genotype.dialects import nni
from tests.original_darts import OPS

# A cell of DARTS's shape and one like it; below, the same two in each dialect.
NORMAL = [("sep_conv_3x3", 0), ("sep_conv_5x5", 1), ("skip_connect", 0), ("dil_conv_3x3", 2),
          ("max_pool_3x3", 1), ("avg_pool_3x3", 3), ("dil_conv_5x5", 0), ("sep_conv_3x3", 4)]  # fmt: skip
REDUCE = [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 1), ("skip_connect", 2),
          ("sep_conv_3x3", 0), ("sep_conv_3x3", 3), ("max_pool_3x3", 2), ("dil_conv_5x5", 4)]  # fmt: skip
FLAT = f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={REDUCE}, reduce_concat=[2, 3, 4, 5])"
EXPECTED = Genotype.from_darts(FLAT)

GROUPED = """
Genotype(
    normal=[[('sep_conv_3x3', 0), ('sep_conv_5x5', 1)], [('skip_connect', 0), ('dil_conv_3x3', 2), ('none', 1)],
            [('max_pool_3x3', 1), ('avg_pool_3x3', 3)], [('dil_conv_5x5', 0), ('sep_conv_3x3', 4)]],
    normal_concat=range(2, 6),
    reduce=[[('max_pool_3x3', 0), ('max_pool_3x3', 1)], [('skip_connect', 1), ('skip_connect', 2)],
            [('sep_conv_3x3', 0), ('sep_conv_3x3', 3)], [('max_pool_3x3', 2), ('dil_conv_5x5', 4)]],
    reduce_concat=range(2, 6))
"""
TUPLES = """
FOUND = Genotype(
    normal=[(('sep_conv_3x3', 0), ('sep_conv_5x5', 1)), (('skip_connect', 0), ('dil_conv_3x3', 2)),
            (('max_pool_3x3', 1), ('avg_pool_3x3', 3)), (('dil_conv_5x5', 0), ('sep_conv_3x3', 4))],
    normal_concat=[2, 3, 4, 5],
    reduce=[(('max_pool_3x3', 0, 0.21), ('max_pool_3x3', 1, 0.2)), (('skip_connect', 1, 1.0), ('skip_connect', 2, 0.5)),
            (('sep_conv_3x3', 0, 0.3), ('sep_conv_3x3', 3, .3)), (('max_pool_3x3', 2, 0.1), ('dil_conv_5x5', 4, 1.))],
    reduce_concat=[2, 3, 4, 5])
"""
NODE_FIRST = """
Genotype(
    normal=[('sep_conv_3x3', 2, 0), ('sep_conv_5x5', 2, 1), ('skip_connect', 3, 0), ('dil_conv_3x3', 3, 2),
            ('max_pool_3x3', 4, 1), ('avg_pool_3x3', 4, 3), ('dil_conv_5x5', 5, 0), ('sep_conv_3x3', 5, 4)],
    normal_concat=range(2, 6),
    reduce=[('max_pool_3x3', 2, 0), ('max_pool_3x3', 2, 1), ('skip_connect', 3, 1), ('skip_connect', 3, 2),
            ('sep_conv_3x3', 4, 0), ('max_pool_3x3', 5, 2), ('sep_conv_3x3', 4, 3), ('dil_conv_5x5', 5, 4)],
    reduce_concat=range(2, 6))
"""
SOURCE_FIRST = """
Genotype(
    normal=[('sep_conv_3x3', 0, 2), ('sep_conv_5x5', 1, 2), ('skip_connect', 0, 3), ('dil_conv_3x3', 2, 3),
            ('null', 0, 4), ('max_pool_3x3', 1, 4), ('avg_pool_3x3', 3, 4), ('dil_conv_5x5', 0, 5),
            ('sep_conv_3x3', 4, 5)], normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0, 2), ('max_pool_3x3', 1, 2), ('skip_connect', 1, 3), ('skip_connect', 2, 3),
            ('sep_conv_3x3', 0, 4), ('sep_conv_3x3', 3, 4), ('max_pool_3x3', 2, 5), ('dil_conv_5x5', 4, 5)],
    reduce_concat=[2, 3, 4, 5])
"""
NNI = {
    "width": 36, "depth": 20,
    "normal/op_2_0": "sep_conv_3x3", "normal/input_2_0": 0, "normal/op_2_1": "sep_conv_5x5", "normal/input_2_1": 1,
    "normal/op_3_0": "skip_connect", "normal/input_3_0": [0], "normal/op_3_1": "dil_conv_3x3", "normal/input_3_1": [2],
    "normal/op_4_0": "max_pool_3x3", "normal/input_4_0": 1, "normal/op_4_1": "avg_pool_3x3", "normal/input_4_1": 3,
    "normal/op_5_0": "dil_conv_5x5", "normal/input_5_0": 0, "normal/op_5_1": "sep_conv_3x3", "normal/input_5_1": 4,
    "reduce/op_2_0": "max_pool_3x3", "reduce/input_2_0": 0, "reduce/op_2_1": "max_pool_3x3", "reduce/input_2_1": 1,
    "reduce/op_3_0": "skip_connect", "reduce/input_3_0": 1, "reduce/op_3_1": "skip_connect", "reduce/input_3_1": 2,
    "reduce/op_4_0": "sep_conv_3x3", "reduce/input_4_0": 0, "reduce/op_4_1": "sep_conv_3x3", "reduce/input_4_1": 3,
    "reduce/op_5_0": "max_pool_3x3", "reduce/input_5_0": 2, "reduce/op_5_1": "dil_conv_5x5", "reduce/input_5_1": 4,
}  # fmt: skip
PREFIX = "NetworkSelectorDatasetInfo:darts:"
CONFIG = {
    "OptimizerSelector:optimizer": "sgd",
    f"{PREFIX}init_channels": 36,
    f"{PREFIX}edge_normal_0": "sep_conv_3x3", f"{PREFIX}edge_normal_1": "sep_conv_5x5",
    f"{PREFIX}edge_normal_2": "skip_connect", f"{PREFIX}edge_normal_4": "dil_conv_3x3",
    f"{PREFIX}edge_normal_6": "max_pool_3x3", f"{PREFIX}edge_normal_8": "avg_pool_3x3",
    f"{PREFIX}edge_normal_9": "dil_conv_5x5", f"{PREFIX}edge_normal_13": "sep_conv_3x3",
    f"{PREFIX}inputs_node_normal_3": "0_2", f"{PREFIX}inputs_node_normal_4": "1_3",
    f"{PREFIX}inputs_node_normal_5": "0_4",
    f"{PREFIX}edge_reduce_0": "max_pool_3x3", f"{PREFIX}edge_reduce_1": "max_pool_3x3",
    f"{PREFIX}edge_reduce_3": "skip_connect", f"{PREFIX}edge_reduce_4": "skip_connect",
    f"{PREFIX}edge_reduce_5": "sep_conv_3x3", f"{PREFIX}edge_reduce_8": "sep_conv_3x3",
    f"{PREFIX}edge_reduce_11": "max_pool_3x3", f"{PREFIX}edge_reduce_13": "dil_conv_5x5",
    f"{PREFIX}inputs_node_reduce_3": "1_2", f"{PREFIX}inputs_node_reduce_4": "0_3",
    f"{PREFIX}inputs_node_reduce_5": "2_4",
}  # fmt: skip
FIELDS = {"name": "x", "normal": NORMAL, "normal_concat": [2, 3, 4, 5], "reduce": REDUCE, "reduce_concat": [2, 3, 4, 5]}

DIALECTS = {
    "flat": FLAT,
    "grouped": GROUPED,
    "tuples of pairs, with probabilities": TUPLES,
    "operation, node, source": NODE_FIRST,
    "operation, source, node": SOURCE_FIRST,
    "nni": NNI,
    "nas-bench-301": CONFIG,
    "nas-bench-301, keys cut": {key.removeprefix(PREFIX): value for key, value in CONFIG.items()},
    "fields": FIELDS,
    "text under a key": {"epoch": 49, "genotype": FLAT},
    "the same text for three stages": {"0": FLAT, "1": GROUPED, "2": f"best = {FLAT}"},
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_says_the_same_genotype(name, tmp_path):
    written = DIALECTS[name]
    assert as_genotype(written) == EXPECTED
    text = written if isinstance(written, str) else json.dumps(written)
    (tmp_path / "found.json").write_text(text)
    assert load_genotype(tmp_path / "found.json") == EXPECTED
    if isinstance(written, str):
        assert as_genotype(json.dumps(written)) == EXPECTED  # a JSON text that is a string
        assert as_genotype(json.dumps({"normal_cell": 1, "found": written})) == EXPECTED


def test_nni_concatenates_all_nodes_or_loose_ends():
    assert [cell.concat for cell in nni.read(NNI)] == [(2, 3, 4, 5)] * 2
    assert [cell.concat for cell in nni.read(NNI | {"concat": "loose_end"})] == [(5,), (5,)]
    assert as_genotype(NNI | {"concat": "all", "width": 36}) == EXPECTED
    with pytest.raises(ValueError, match="NNI model_dict, key concat: must be 'all' or 'loose_end', got 'some'"):
        as_genotype(NNI | {"concat": "some"})


def test_five_nodes_of_nni_are_not_guessed():
    """Its spaces of five nodes differ in what a cell joins, and its dictionary does not name them."""
    fifth = {
        f"{kind}/{what}_6_{k}": value
        for kind in ("normal", "reduce")
        for k, edge in enumerate((("sep_conv_3x3", 0), ("skip_connect", 1)))
        for what, value in zip(("op", "input"), edge, strict=True)
    }
    with pytest.raises(ValueError, match=r"normal cell: five nodes, .* \(5, 6\).*; add \"concat\": \"all\" or"):
        as_genotype(NNI | fifth)
    assert as_genotype(NNI | fifth | {"concat": "all"}).normal.concat == (2, 3, 4, 5, 6)
    assert as_genotype(NNI | fifth | {"concat": "loose_end"}).normal.concat == (5, 6)
    same = {key: 0 if "input" in key else value for key, value in (NNI | fifth).items()}  # no node reads another
    assert as_genotype(same).normal.concat == (2, 3, 4, 5, 6)


NNI_NONE = NNI | {"normal/op_4_0": "none", "normal/op_4_1": "none"}
CONFIG_NONE = CONFIG | {f"{PREFIX}edge_reduce_5": "none", f"{PREFIX}edge_reduce_8": "none"}


def without(record: dict, key: str) -> dict:
    return {k: v for k, v in record.items() if k != key}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (NNI | {"normal/op_3_1": "sep"}, ["NNI model_dict, key normal/op_3_1: unknown operation 'sep'"]),
        (NNI | {"reduce/input_3_1": 3}, ["key reduce/input_3_1: cycle: node 3 reads itself; node 3 may read 0, 1, 2"]),
        (NNI | {"normal/input_3_1": [0, 2]}, ["key normal/input_3_1", "(an integer), got [0, 2]"]),
        (NNI | {"normal/input_3_1": "0"}, ["key normal/input_3_1", "got '0'"]),
        (NNI | {"normal/op_7_0": "max_pool_3x3"}, ["normal: ", "got nodes 2, 3, 4, 5, 7", "without a gap"]),
        (NNI | {"normal/opp": 1}, ["unknown key 'normal/opp'", "normal/op_2_0"]),
        (without(NNI, "normal/op_3_1"), ["missing key normal/op_3_1"]),
        ({k: v for k, v in NNI.items() if "reduce" not in k}, ["no key begins with reduce/op_"]),
        (NNI_NONE, ["node 4 has no inputs, so there is nothing to read", "key normal/input_5_1"]),
        (CONFIG | {f"{PREFIX}edge_normal_0": "none"}, None),
        (CONFIG_NONE, ["key", "inputs_node_reduce_5", "node 4 has no inputs"]),
        (CONFIG | {f"{PREFIX}edge_normal_4": 3}, [f"key {PREFIX}edge_normal_4", "(a string), got 3"]),
        (CONFIG | {f"{PREFIX}inputs_node_normal_4": "3_1"}, ["inputs_node_normal_4", "smaller first", "'3_1'"]),
        (CONFIG | {f"{PREFIX}inputs_node_normal_4": "1_4"}, ["inputs_node_normal_4", "below 4"]),
        (without(CONFIG, f"{PREFIX}edge_normal_13"), [f"missing key {PREFIX}edge_normal_13"]),
        (without(CONFIG, f"{PREFIX}inputs_node_reduce_5"), [f"missing key {PREFIX}inputs_node_reduce_5"]),
        (FIELDS | {"edges": 3}, ["DARTS fields: unknown key 'edges'"]),
        (without(FIELDS, "reduce"), ["DARTS fields: missing key reduce"]),
        (FIELDS | {"normal": [["sep", 0], ["sep_conv_3x3", 1]]}, ["normal[0][0] (node 2): unknown operation 'sep'"]),
        ({"a": FLAT.replace("sep_conv_5x5", "sep")}, ["key 'a': normal[1][0] at line 1, column 40", "'sep'"]),
        ({"a": FLAT, "b": FLAT.replace("sep_conv_5x5", "sep_conv_3x3")}, ["2 different genotypes: a, b", "say which"]),
        (SOURCE_FIRST.replace("5, 0)", "0, 5)").replace("('dil_conv_3x3', 2, 3)", "('dil_conv_3x3', 3, 2)"),
         ["normal[3]", "line 3", "(operation, source, node) is read here", "['dil_conv_3x3', 3, 2]"]),
        (NODE_FIRST.replace("'skip_connect', 3, 0", "'skip_connect', 3, 3"), ["normal[2]", "line 3", "got"]),
        (NODE_FIRST.replace("('sep_conv_3x3', 5, 4)", "('sep_conv_3x3', 5, -1)"), ["normal[7]", "line 4"]),
        (NODE_FIRST.replace("('sep_conv_3x3', 5, 4)", "('sep_conv_3x3', 99, 4)"), ["normal[7]", "nodes 2 to 9"]),
        (NODE_FIRST.replace("dil_conv_3x3', 3", "sepp', 3"), ["normal[3][0]", "(node 3): unknown operation 'sepp'"]),
        (NODE_FIRST.replace("('skip_connect', 3, 0), ('dil_conv_3x3', 3, 2),", ""), ["node 3 has no inputs"]),
        (TUPLES.replace("0.21", "'0.21'"), ["reduce[0][0]", "3 values"]),
        (TUPLES.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0.0)"), ["0.0: only lists, tuples, strings"]),
    ],
)  # fmt: skip
def test_mistakes_name_the_place(written, words):
    if words is None:  # an edge that adds nothing to a node with another one
        assert as_genotype(written).normal.nodes[0] == (("sep_conv_5x5", 1),)
        return
    with pytest.raises(ValueError, match=r".") as caught:
        as_genotype(written)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_executed(tmp_path):
    trap = tmp_path / "trap"
    text = f"Genotype(normal=open({str(trap)!r}, 'w'), normal_concat=[2], reduce=[], reduce_concat=[2])"
    for written in (text, {"genotype": text}, json.dumps(text)):
        with pytest.raises(ValueError, match="only lists, tuples"):
            as_genotype(written)
    assert not trap.exists()


# Dialects that number their operations, or list every edge ------------------------------------------------------------

UNAS = """UNAS_CIFAR10 = Genotype(
    normal=[[{'inputs': [0, 0], 'ops': [4, 0]}, {'inputs': [0, 1], 'ops': [0, 3]},
             {'inputs': [0, 1], 'ops': [1, 3]}, {'inputs': [1, 0], 'ops': [1, 3]}]],
    normal_concat=range(2, 6),
    reduce=[[{'inputs': [0, 0], 'ops': [1, 4]}, {'inputs': [1, 0], 'ops': [0, 1]},
             {'inputs': [1, 0], 'ops': [5, 0]}, {'inputs': [3, 1], 'ops': [4, 5]}]],
    reduce_concat=range(2, 6), alphas_normal=None, alphas_reduce=None)
"""
GENAS = (3, 6, 0, 4, 4, 0, 6, 6, 0, 0, 0, 0, 4, 3, 5, 2, 0, 6, 4, 0, 3, 0, 6, 0, 0, 5, 0, 7)


def unas_json() -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for kind in ("normal", "reduce"):
        numbers = re.findall(
            r"'inputs': \[(\d), (\d)\], 'ops': \[(\d), (\d)\]", UNAS.split("reduce=")[kind == "reduce"]
        )
        cells[kind] = [[{"inputs": [int(a), int(b)], "ops": [int(c), int(d)]} for a, b, c, d in numbers]]
        cells[f"{kind}_concat"] = [2, 3, 4, 5]
    return cells | {"alphas_normal": None, "alphas_reduce": None}


def test_unas_is_read_as_text_and_as_json(tmp_path):
    expected = load_genotype("unas_c10")
    assert Genotype.from_darts(UNAS) == expected
    assert as_genotype(unas_json()) == expected
    path = tmp_path / "unas.json"
    path.write_text(json.dumps(unas_json()))
    assert load_genotype(path) == expected


def test_28_numbers_are_two_cells():
    expected = load_genotype("genas_flatness_c10")
    for form in (GENAS, list(GENAS), json.dumps(GENAS), [list(GENAS[:14]), list(GENAS[14:])]):
        assert as_genotype(form) == expected


def test_a_list_of_all_14_edges_is_four_nodes():
    operations = ["sep_conv_3x3", "skip_connect", "none", "dil_conv_3x3", "max_pool_3x3"]
    pairs, nodes = [], []
    for node in range(2, 6):
        sources = list(reversed(range(node)))  # in any order, as in SNAS's file
        pairs += [(operations[(node + source) % 5], source) for source in sources]
        nodes.append([edge for edge in pairs[-node:] if edge[0] != "none"])
    cell = Cell(nodes, [2, 3, 4, 5])
    text = f"Genotype(normal={pairs}, normal_concat=range(2, 6), reduce={pairs}, reduce_concat=[2, 3, 4, 5])"
    assert Genotype.from_darts(text) == Genotype(cell, cell)
    fields = {"normal": pairs, "normal_concat": [2, 3, 4, 5], "reduce": pairs, "reduce_concat": [2, 3, 4, 5]}
    assert as_genotype(fields) == Genotype(cell, cell)


def test_seven_nodes_of_two_pairs_stay_seven_nodes():
    pairs = [("skip_connect", source) for node in range(2, 6) for source in range(node)]
    text = f"Genotype(normal={pairs}, normal_concat=range(2, 9), reduce={pairs}, reduce_concat=range(2, 9))"
    genotype = Genotype.from_darts(text)
    assert [len(node) for node in genotype.normal.nodes] == [2] * 7
    assert Genotype.from_darts(genotype.to_darts()) == genotype
    short = Cell(genotype.normal.nodes, [2, 5])  # would be read as four nodes if it were written flat
    assert Genotype.from_darts(Genotype(short, short).to_darts()) == Genotype(short, short)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (UNAS.replace("'ops': [4, 0]", "'ops': [9, 0]"), ["normal[0]", "line 2", "op 9", "6 sep_conv_7x7"]),
        (UNAS.replace("'inputs': [0, 0], 'ops': [4, 0]", "'inputs': [0], 'ops': [4, 0]"), ["1 inputs and 2 ops"]),
        (UNAS.replace("'inputs': [3, 1]", "'inputs': [5, 1]"), ["reduce[3]", "node 5"]),
        (UNAS.replace("{'inputs': [0, 0], 'ops': [4, 0]}", "{'x': 1}"), ["'inputs' and 'ops'", "line 2"]),
        (UNAS.replace("alphas_normal=None", "alphas_normal=[0.1]"), ["unknown argument", "alphas_normal"]),
        (list(GENAS[:27]), ["27 values"]),
        ([8, *GENAS[1:]], ["normal cell, number 0 of 14", "8 is no operation", "7 dil_conv_5x5"]),
    ],
)
def test_mistakes_in_numbered_dialects_name_the_place(written, words):
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        as_genotype(written)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def darts_own(text: str) -> list[tuple[list, list]]:
    """What cnn/model.py of quark0/darts makes of a text: of each cell, two edges for each of len(edges) // 2 nodes."""
    fields = ("normal", "normal_concat", "reduce", "reduce_concat")
    record = eval(text, {"Genotype": lambda **given: [given[field] for field in fields]})
    cells = []
    for edges, concat in (record[:2], record[2:]):
        names, sources = zip(*edges, strict=True)
        assert all(isinstance(name, str) and isinstance(source, int) for name, source in edges)
        nodes = [[(names[i], sources[i]) for i in (2 * n, 2 * n + 1)] for n in range(len(names) // 2)]
        cells.append((nodes, list(concat)))
    return cells


def test_darts_own_code_builds_every_cell_that_is_said_to_be_in_its_words():
    told = {name: load_genotype(name) for name in list_genotypes()}
    for name, genotype in told.items():
        cells = (genotype.normal, genotype.reduce)
        if genotype.in_darts:
            expected = [([[tuple(edge) for edge in node] for node in cell.nodes], list(cell.concat)) for cell in cells]
            assert darts_own(genotype.to_darts()) == expected, name
            assert {edge.operation for cell in cells for node in cell.nodes for edge in node} <= {*OPS, "conv_7x1_1x7"}
    assert told["darts_v2"].in_darts
    assert not told["fairdarts_c"].in_darts  # uneven
    assert not Genotype(*[Cell([[("mine.py:Op", 0), ("skip_connect", 1)]], [2])] * 2).in_darts
    assert 0.2 < sum(genotype.in_darts for genotype in told.values()) / len(told) < 1
