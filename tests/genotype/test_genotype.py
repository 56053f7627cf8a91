"""Genotypes: what is accepted comes back the same through every form, what is not is a ValueError that says why."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nas_zoo.genotype
from nas_zoo.genotype import (
    KINDS,
    OPERATIONS,
    Cell,
    Edge,
    Genotype,
    as_genotype,
    count_cells,
    describe_cells,
    genotype_record,
    list_found,
    list_genotypes,
    list_records,
    load_genotype,
)
from nas_zoo.genotype.catalog import NAME
from nas_zoo.genotype.dialects.darts import MAX_BYTES as MAX_DARTS_BYTES
from nas_zoo.genotype.genotype import MAX_BYTES

FOLDER = Path(nas_zoo.genotype.__file__).parent

# as printed in quark0/darts, cnn/genotypes.py
DARTS_V2 = """DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),
 ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
 normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2),
 ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
 reduce_concat=[2, 3, 4, 5])"""

SEP, SKIP = "sep_conv_3x3", "skip_connect"
SMALL = ([[[SEP, 0]], [[SKIP, 1], [SEP, 2]]], [3, 2])  # nodes 2 and 3
SMALL_GENOTYPE = Genotype(SMALL, SMALL)


def examples(count):
    """The same examples on every run, however slow the machine."""
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cells(draw):
    nodes: list[list[tuple[str, int]]] = []
    for number in range(2, 2 + draw(st.integers(1, 8))):
        sources = [0, 1, *(i + 2 for i, node in enumerate(nodes) if node)]
        edges = st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(sources))
        nodes.append(draw(st.lists(edges, min_size=int(number == 2), max_size=4)))
    usable = [i + 2 for i, node in enumerate(nodes) if node]
    return Cell(nodes, draw(st.permutations(usable))[: draw(st.integers(1, len(usable)))])


genotypes = st.builds(Genotype, cells(), cells())


@examples(50)
@given(genotypes)
def test_every_form_gives_the_genotype_back(genotype):
    labelled = genotype.to_json(indent=4, name="a b", provenance={"n": [1]})
    for text in (genotype.to_json(), genotype.to_json(2), labelled):
        assert Genotype.from_json(text) == genotype
        assert Genotype.from_json(text.encode()) == genotype
        assert Genotype.from_json(json.loads(text)) == genotype
        assert as_genotype(text) == genotype
    for text in (genotype.to_darts(), genotype.to_darts("FOUND"), genotype.to_darts().replace("[", "[  # why\n")):
        assert Genotype.from_darts(text) == genotype
        assert as_genotype(text) == genotype
    lists = json.loads(json.dumps(genotype))
    assert as_genotype(lists) == as_genotype(json.dumps(genotype)) == Genotype(*lists) == genotype
    assert as_genotype(genotype) is genotype
    for same in (pickle.loads(pickle.dumps(genotype)), copy.deepcopy(genotype), copy.copy(genotype)):
        assert type(same) is Genotype
        assert type(same.normal) is Cell
        assert same == genotype
        assert (same.digest, hash(same)) == (genotype.digest, hash(genotype))


@examples(50)
@given(genotypes)
def test_live_nodes_and_inputs_read_are_what_a_forward_walk_finds(genotype):
    for cell in genotype:
        reads = {i + 2: {edge.source for edge in node} for i, node in enumerate(cell.nodes)}
        live = set(cell.concat)
        while more := {source for number in live for source in reads[number] if source >= 2} - live:
            live |= more
        assert cell.live_nodes == tuple(sorted(live))
        assert cell.inputs_read == {source for number in live for source in reads[number]} & {0, 1}
        assert cell.inputs_read
    assert sum(sum(counts.values()) for counts in genotype.histogram().values()) == genotype.num_edges
    assert set().union(*genotype.histogram().values()) == genotype.operations


def test_darts_v2_has_its_edges_counts_and_digest():
    genotype = Genotype.from_darts(DARTS_V2)
    assert genotype.normal.nodes[3] == (Edge("skip_connect", 0), Edge("dil_conv_3x3", 2))
    assert genotype.cell("reduce") is genotype.reduce
    assert genotype.reduce.concat == (2, 3, 4, 5)
    assert genotype.num_edges == 16
    assert genotype.operations == {"sep_conv_3x3", "skip_connect", "dil_conv_3x3", "max_pool_3x3"}
    assert genotype.histogram() == {
        "normal": {"skip_connect": 2, "sep_conv_3x3": 5, "dil_conv_3x3": 1},
        "reduce": {"max_pool_3x3": 5, "skip_connect": 3},
    }
    assert genotype == load_genotype("darts_v2")
    assert genotype.digest == "d795ea3e79663488"  # fixed: file names and caches of users are made of it
    assert genotype.to_darts("DARTS_V2") == " ".join(DARTS_V2.split())


def alone(code, *arguments, **env):
    """What `code` prints in a new process that has this room, as `g`, without the package around it."""
    load = (
        "import sys, types; before = set(sys.modules); nas_zoo = types.ModuleType('nas_zoo')\n"
        "nas_zoo.__path__ = [sys.argv[1]]; sys.modules['nas_zoo'] = nas_zoo; import nas_zoo.genotype as g\n"
    )
    command = [sys.executable, "-c", load + code, str(FOLDER.parent), *arguments]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout


def test_the_hash_is_the_same_in_another_process():
    code = "x = g.Genotype.from_darts(sys.argv[2]); print(x.digest, hash(x))"
    genotype = Genotype.from_darts(DARTS_V2)
    assert alone(code, DARTS_V2, PYTHONHASHSEED="7").split() == [genotype.digest, str(hash(genotype))]


def test_the_room_needs_the_standard_library_only():
    code = (
        "new = {n.split('.')[0] for n in set(sys.modules) - before} - {'nas_zoo'}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    assert alone(code).strip() == "[]"


def test_equality_is_structural_and_heeds_the_order_of_edges():
    turned = SMALL_GENOTYPE._replace(normal=Cell([[(SEP, 0)], [(SEP, 2), (SKIP, 1)]], (3, 2)))
    assert turned != SMALL_GENOTYPE
    assert turned.digest != SMALL_GENOTYPE.digest
    again = Genotype(reduce=SMALL, normal=SMALL)
    assert again == SMALL_GENOTYPE
    assert len({SMALL_GENOTYPE, again, turned}) == 2
    plain = tuple(again)  # equal values would need equal hashes
    assert again != plain
    assert plain != again
    assert (again == plain) is False


def test_a_genotype_is_frozen_and_stays_checked():
    with pytest.raises(AttributeError):
        SMALL_GENOTYPE.normal = SMALL_GENOTYPE.reduce  # type: ignore[misc]
    with pytest.raises(AttributeError):
        SMALL_GENOTYPE.other = 1  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="empty concat"):
        SMALL_GENOTYPE.normal._replace(concat=())
    with pytest.raises(ValueError, match="reduce cell"):
        SMALL_GENOTYPE._replace(reduce=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty concat"):
        Cell._make([SMALL[0], ()])


def test_a_node_may_be_empty_doubled_or_unread():
    cell = Cell([[(SEP, 0), (SEP, 0), (SKIP, 0)], [], [(SKIP, 2)], [(SEP, 1)]], [4])
    assert cell.live_nodes == (2, 4)  # node 3 has no inputs, node 5 is read by nobody
    assert cell.inputs_read == {0}
    five = Genotype(([[(SEP, 1)]] * 5, range(2, 7)), {"nodes": [[(SEP, 1)]] * 5, "concat": [6, 2]})
    assert five.reduce.concat == (6, 2)
    assert five.normal.live_nodes == (2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "text",
    [
        "Genotype([('sep_conv_3x3', 0), ('skip_connect', 1)], [2], [('sep_conv_3x3', 0), ('skip_connect', 1)], [2])",
        "Genotype((('sep_conv_3x3', 0), ('skip_connect', 1)), (2,), (('sep_conv_3x3', 0), ('skip_connect', 1)), (2,))",
        "X = Genotype([[('sep_conv_3x3', 0), ('skip_connect', 1)]], range(2, 3), "
        "reduce_concat=range(2, 3), reduce=[(('sep_conv_3x3', 0), ('skip_connect', 1))])",
        "\ufeff\n  # found in epoch 50\n  X = Y = Genotype(normal=[['sep_conv_3x3', 0], ('skip_connect', 1)],\n"
        "normal_concat=[2], reduce=[[('sep_conv_3x3', 0), ('none', 0), ('skip_connect', 1)]], reduce_concat=[2])",
    ],
)
def test_every_dialect_of_the_darts_text_is_read(text):
    cell = Cell([[(SEP, 0), (SKIP, 1)]], [2])
    assert Genotype.from_darts(text) == as_genotype(text) == Genotype(cell, cell)


def test_none_is_dropped_after_grouping_so_that_no_edge_changes_its_node():
    text = (
        "Genotype([('none', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('none', 2), ('none', 0), ('none', 1)],"
        " [2, 3], [('skip_connect', 0), ('skip_connect', 1)], [2])"
    )
    genotype = Genotype.from_darts(text)
    assert genotype.normal.nodes == (((SEP, 1),), ((SKIP, 0),), ())
    assert "[[('sep_conv_3x3', 1)], [('skip_connect', 0)], []]" in genotype.to_darts()


def test_a_darts_namedtuple_of_other_code_is_read():
    other = namedtuple("other", "normal normal_concat reduce reduce_concat")
    flat = [(SEP, 0), (SKIP, 1)]
    cell = Cell([flat], [2])
    assert as_genotype(other(flat, [2], flat, range(2, 3))) == Genotype(cell, cell)
    with pytest.raises(ValueError, match=r"reduce\[1\]\[1\] \(node 2\): wrong node: there is no node 9"):
        as_genotype(other(flat, [2], [(SEP, 0), (SKIP, 9)], [2]))


def test_indented_json_has_one_line_a_node_and_keeps_the_provenance():
    text = SMALL_GENOTYPE.to_json(2, name="small", provenance={"method": "hand"})
    assert '      [["skip_connect", 1], ["sep_conv_3x3", 2]]\n' in text
    assert json.loads(text)["provenance"] == {"method": "hand"}
    assert SMALL_GENOTYPE.to_json().count("\n") == 0


# What is refused ------------------------------------------------------------------------------------------------------

BAD_CELLS = [
    (([[["sep_conv_3x4", 0]]], [2]), ["normal.nodes[0][0][0] (node 2)", "'sep_conv_3x4'", "near: sep_conv_3x3"]),
    (([[["none", 0]]], [2]), ["normal.nodes[0][0][0]", "unknown operation 'none'", "left out"]),
    (([[[3, 0]]], [2]), ["normal.nodes[0][0][0]", "name of an operation", "got 3"]),
    (([[[[SEP], 0]]], [2]), ["normal.nodes[0][0][0]", "string", "['sep_conv_3x3']"]),
    (([[[SEP, 0]], [[SEP, 3]]], [2]), ["normal.nodes[1][0][1] (node 3)", "cycle: node 3 reads itself", "0, 1, 2"]),
    (([[[SEP, 3]], [[SEP, 0]]], [2]), ["(node 2)", "cycle: node 2 reads node 3", "may read 0, 1"]),
    (([[[SEP, 4]], [[SEP, 0]]], [2]), ["(node 2)", "wrong node: there is no node 4", "may read 0, 1"]),
    (([[[SEP, -1]]], [2]), ["wrong node: there is no node -1"]),
    (([[[SEP, 10**5000]]], [2]), ["wrong node", "int too large to show"]),
    (([[[SEP, True]]], [2]), ["normal.nodes[0][0][1]", "integer", "got True"]),
    (([[[SEP, 0.0]]], [2]), ["integer", "got 0.0"]),
    (([[[SEP, "0"]]], [2]), ["integer", "got '0'"]),
    (([[[SEP, 0]], [], [[SEP, 3]]], [2]), ["(node 4)", "node 3 has no inputs", "may read 0, 1, 2"]),
    (([[[SEP]]], [2]), ["normal.nodes[0][0]", "[operation, source] pair", "got 1 values"]),
    (([[[SEP, 0, 0.5]]], [2]), ["[operation, source] pair", "got 3 values"]),
    (([[SEP]], [2]), ["normal.nodes[0][0]", "pair", "got 'sep_conv_3x3'"]),
    (([SEP], [2]), ["normal.nodes[0]", "list of [operation, source] pairs"]),
    ((None, [2]), ["normal.nodes", "list of nodes", "got None"]),
    (([], [2]), ["normal.nodes", "1 to 8 intermediate nodes", "got 0"]),
    (([[[SEP, 0]]] * 9, [2]), ["1 to 8 intermediate nodes", "got 9"]),
    (([[[SEP, 0]]], []), ["normal.concat", "empty concat", "at least one"]),
    (([[[SEP, 0]]], None), ["normal.concat", "list of node numbers", "got None"]),
    (([[[SEP, 0]]], [1]), ["normal.concat[0]", "wrong node 1", "with inputs: 2"]),
    (([[[SEP, 0]]], [2, 3]), ["normal.concat[1]", "wrong node 3", "with inputs: 2"]),
    (([[[SEP, 0]]], range(2, 10**30)), ["normal.concat[1]", "wrong node 3"]),
    (([[[SEP, 0]]], [2, 2]), ["normal.concat[1]", "twice"]),
    (([[[SEP, 0]]], [True]), ["normal.concat[0]", "integer", "got True"]),
    (([[[SEP, 0]]], ["2"]), ["normal.concat[0]", "integer", "got '2'"]),
    (([[[SEP, 0]], []], [2, 3]), ["normal.concat[1]", "wrong node 3, which has no inputs"]),
    (([[]], [2]), ["normal.concat[0]", "no inputs"]),
    (([[[SEP, 0]]],), ["normal cell", "nodes and concat", "got 1 values"]),
    (5, ["normal cell", "nodes and concat", "got 5"]),
    (None, ["normal cell", "got None"]),
    ({"nodes": [[[SEP, 0]]]}, ["normal cell", "missing key 'concat'"]),
    ({"nodes": [[[SEP, 0]]], "concat": [2], "edges": 1}, ["normal cell", "unknown key 'edges'", "nodes, concat"]),
]


@pytest.mark.parametrize(("cell", "fragments"), BAD_CELLS)
def test_a_bad_cell_is_told_with_its_place(cell, fragments):
    with pytest.raises(ValueError, match="normal") as caught:
        Genotype(normal=cell, reduce=SMALL)
    assert [f for f in fragments if f not in str(caught.value)] == []
    assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="reduce"):
        Genotype(normal=SMALL, reduce=cell)


def record(**changes):
    """The JSON record of a small genotype with some keys changed; a key given None goes."""
    whole = {**json.loads(SMALL_GENOTYPE.to_json()), **changes}
    return {key: value for key, value in whole.items() if value is not None}


DEEP = "[" * 100_000 + "]" * 100_000
BAD_JSON = [
    (record(schema=None), ["missing key 'schema'", "schema, version, normal, reduce"]),
    (record(schema="other"), ["schema", "must be 'nas-zoo/genotype'", "'other'"]),
    (record(version=None), ["missing key 'version'"]),
    (record(version=2), ["version: 2 is not read", "versions read: 1"]),
    (record(version=True), ["version: True is not read"]),
    (record(version=1.0), ["version: 1.0 is not read"]),
    (record(normal=None), ["missing kind of cell 'normal'"]),
    (record(reduce=None), ["missing kind of cell 'reduce'"]),
    (record(reduction={}), ["unknown key 'reduction'", "name, provenance"]),
    (record(provenance=[]), ["provenance must be an object", "[]"]),
    (record(name=3), ["name must be a string", "3"]),
    (record(normal=[]), ["normal cell", "got 0 values"]),
    (record(reduce={"nodes": [[["conv", 0]]], "concat": [2]}), ["reduce.nodes[0][0][0] (node 2)", "'conv'"]),
    ({}, ["missing key 'schema'"]),
    ([], ["a JSON object with schema", "got []"]),
    (None, ["a JSON object", "None"]),
    (3, ["a JSON object", "3"]),
    ("", ["line 1, column 1"]),
    ("{", ["line 1, column 2"]),
    ('{"schema": 1,\n "schema": 2}', ["key 'schema' is there twice"]),
    ('{"provenance": {"a": {"b": 1, "b": 1}}}', ["key 'b' is there twice"]),
    ('{"provenance": NaN}', ["NaN is no JSON"]),
    ('{"provenance": [-Infinity]}', ["-Infinity is no JSON"]),
    ('{"provenance": 1e999}', ["'1e999' is out of range"]),
    ('{"provenance": ' + "9" * 5000 + "}", ["5000 digits", "up to 400"]),
    (DEEP, ["nested too deeply"]),
    ('{"provenance": ' + DEEP + "}", ["nested too deeply"]),
    (" " * (MAX_BYTES + 1), ["too large", "1048576 bytes (1024 KiB)"]),
    (b" " * (MAX_BYTES + 1), ["too large"]),
    (b"\xfa{}", ["binary or not UTF-8 at byte 0"]),
    (b"{\x00}", ["binary", "character 1"]),
    ("{\ud800}", ["line 1, column 2"]),
]


@pytest.mark.parametrize(("source", "fragments"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json_is_told_with_its_place(source, fragments):
    with pytest.raises(ValueError, match=r".") as caught:
        Genotype.from_json(source)
    assert [f for f in fragments if f not in str(caught.value)] == []
    assert len(str(caught.value)) < 500


N = "[('sep_conv_3x3', 0), ('skip_connect', 1)]"
BAD_DARTS = [
    ("", ["empty", "name = Genotype(normal="]),
    ("# only a comment", ["empty"]),
    (f"Genotype({N}, [2], {N})", ["line 1, column 1", "missing argument reduce_concat"]),
    (f"Genotype(normal={N}, normal_concat=[2])", ["missing argument reduce;"]),
    (f"Genotype({N}, [2], {N}, [2], 5)", ["line 1, column 1", "more than four arguments"]),
    (f"Genotype({N}, [2], {N}, [2], normal=1)", ["argument normal is there twice"]),
    (f"Genotype({N}, [2], {N}, concat=[2])", ["unknown argument 'concat'"]),
    (f"Genotype({N}, [2], {N}, **x)", ["unknown argument None"]),
    (f"Genotype({N}, [2], {N}, *x)", ["Starred", "only lists, tuples"]),
    (f"A = 1\nB = Genotype({N}, [2], {N}, [2])", ["line 2, column 1", "second statement"]),
    ("import os", ["line 1, column 1", "no genotype"]),
    ("A.b = Genotype()", ["no genotype"]),
    ("genotypes.Genotype()", ["missing argument normal"]),
    ("genotypes.Phenotype()", ["no call of Genotype"]),
    ("__import__('os').system('true')", ["no call of Genotype"]),
    (f"Genotype({N}, list(range(2, 3)), {N}, [2])", ["line 1, column 54", "Call: only lists"]),
    (f"Genotype(\n  {N}, [2], {N},\n  CONCAT)", ["line 3, column 3", "Name: only lists, tuples, strings, integers"]),
    (f"Genotype({N}, [2 + 0], {N}, [2])", ["line 1, column 55", "BinOp"]),
    (f"Genotype({N}, [True], {N}, [2])", ["column 55", "True: only lists"]),
    (f"Genotype({N}, [2.0], {N}, [2])", ["column 55", "2.0: only lists"]),
    (f"Genotype({N}, [-2], {N}, [2])", ["normal_concat[0] at line 1, column 55: wrong node -2"]),
    (f"Genotype({N}, range(2, 3, 0), {N}, [2])", ["step 0"]),
    (f"Genotype({N}, range(), {N}, [2])", ["range must have one to three integers"]),
    (f"Genotype({N}, range('a'), {N}, [2])", ["range must have one to three integers"]),
    (f"Genotype({N}, range(2, 10**9), {N}, [2])", ["BinOp"]),
    (f"Genotype({N}, range(2, {10**30}), {N}, [2])", ["normal_concat[1] at line 1, column 54: wrong node 3"]),
    (f"Genotype({N}, [], {N}, [2])", ["normal_concat at line 1, column 54: empty concat"]),
    (f"Genotype({N}, 2, {N}, [2])", ["normal_concat at line 1, column 54", "list of node numbers", "got 2"]),
    (f"Genotype([('sep_conv_3x3', 0)], [2], {N}, [2])", ["normal at line 1, column 10", "1 pairs", "grouped by node"]),
    (f"Genotype([], [2], {N}, [2])", ["1 to 8 intermediate nodes", "got 0"]),
    (f"Genotype([('a', 0), [('b', 1)]], [2], {N}, [2])", ["normal[1] at line 1, column 21", "not both"]),
    (f"Genotype([[('a', 0)], ('b', 1)], [2], {N}, [2])", ["normal[1] at line 1, column 23", "not both"]),
    (f"Genotype([[[[1]]]], [2], {N}, [2])", ["line 1, column 13"]),
    (f"Genotype({N[:-1]}, ('none', 0), ('foo', 2)], [2], {N}, [2])", ["normal[3][0] at line 1, column 67 (node 3)"]),
    (f"Genotype([[('none', 0), ('foo', 1)]], [2], {N}, [2])", ["normal[0][1][0] at line 1, column 26 (node 2)"]),
    (f"\n   Genotype([('é', 0), ('foo', 1)], [2], {N}, [2])", ["line 2, column 15", "'é'"]),
    (f"Genotype([('skip_connect', 'é'), ('foo', 1)], [2], {N}, [2])", ["column 28", "'é'"]),
    (f"Genotype({N}, [2], [('é', 1), ('none', 0)], [2])", ["reduce[0][0] at line 1, column 61 (node 2)"]),
    (f"Genotype([[], [('skip_connect', 2)]], [3], {N}, [2])", ["node 2 has no inputs"]),
    (f"Genotype([('none', 0), ('none', 1)], [2], {N}, [2])", ["normal_concat[0] at line 1, column 39", "no inputs"]),
    (f"Genotype({N}, [2], {N}, [2]", ["line 1, column 9", "never closed"]),
    ("Genotype(\0)", ["null"]),
    ("Genotype('\ud800')", ["surrogates"]),
    ("Genotype('\\d', 0or 1, 2, 3)", ["DARTS text, line 1"]),
    ("[" * 50_000, ["nested"]),
    ("-" * 50_000 + "1", ["nested too deeply"]),
    ("a" + ".b" * 30_000, ["nested too deeply"]),
    ("9" * 5000, ["digits"]),
    ("#" * (MAX_DARTS_BYTES + 1), ["too large", "65536 bytes (64 KiB)"]),
    (b"Genotype()", ["must be a string"]),
]


@pytest.mark.parametrize(("text", "fragments"), BAD_DARTS, ids=range(len(BAD_DARTS)))
def test_bad_darts_text_is_told_with_line_and_column(text, fragments):
    with pytest.raises(ValueError, match=r".") as caught:
        Genotype.from_darts(text)
    assert [f for f in fragments if f not in str(caught.value)] == []
    assert len(str(caught.value)) < 500


BAD_VALUES = [
    ("darts_v3", ["'darts_v3'", "near: darts_v", describe_cells(), "`nas-zoo list --cells`"]),
    ("Darts-V2", ["'Darts-V2'", "no such file", "near: darts_v2"]),
    ("../genotypes/darts_v2", ["no such file"]),
    ("/no/such/folder/genotype.json", ["'/no/such/folder/genotype.json'", "no such file"]),
    ("", ["''", "no such file"]),
    ("x" * 5000, ["'xxxx", "none of the"]),
    ("a/" * 3000, ["File name too long"]),
    ("a\0b", ["null"]),
    ("\ud800", ["\\ud800"]),
    ("/dev/zero", ["'/dev/zero'", "no regular file"]),
    (3, ["a Genotype, a name, a path", "got 3"]),
    (None, ["got None"]),
    ({"genotype": "darts_v2"}, ["missing key 'schema'"]),
    ([], ["two cells", "got 0 values"]),
    ([1, 2], ["normal cell", "got 1"]),
    ([1, 2, 3, 4], ["normal", "got 1"]),
    ("[]", ["two cells"]),
    (b"[1]", ["two cells", "got 1 values: [1]"]),
    (b"\xff", ["not UTF-8"]),
]


@pytest.mark.parametrize(("value", "fragments"), BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_what_stands_for_no_genotype_is_told(value, fragments):
    with pytest.raises(ValueError, match=r".") as caught:
        as_genotype(value)
    assert [f for f in fragments if f not in str(caught.value)] == []
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("indent", [0, 9, True, "2", 2.0])
def test_a_wrong_indent_is_told(indent):
    with pytest.raises(ValueError, match="None or a number from 1 to 8"):
        SMALL_GENOTYPE.to_json(indent)


def test_other_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="one of normal, reduce, got 'both'"):
        SMALL_GENOTYPE.cell("both")
    with pytest.raises(ValueError, match="Python identifier"):
        SMALL_GENOTYPE.to_darts("my cell")
    for provenance in ({"a": float("nan")}, {"a": {1, 2}}, {"a": object()}):
        for indent in (None, 2):
            with pytest.raises(ValueError, match="provenance"):
                SMALL_GENOTYPE.to_json(indent, provenance=provenance)
    with pytest.raises(ValueError, match="name must be a string"):
        SMALL_GENOTYPE.to_json(name=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too large"):
        SMALL_GENOTYPE.to_json(provenance={"log": "x" * MAX_BYTES})
    with pytest.raises(ValueError, match="a name or a path"):
        load_genotype(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none of the"):
        genotype_record("../darts_v2")
    with pytest.raises(ValueError, match=r"cell\.concat"):
        Cell([[(SEP, 0)]], [])
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match="normal"):
        Genotype(endless, endless)


# Files and names ------------------------------------------------------------------------------------------------------


def test_files_and_run_folders_are_read(tmp_path, monkeypatch):
    (tmp_path / "genotype.json").write_text(SMALL_GENOTYPE.to_json(2, provenance={"seed": 0}))
    (tmp_path / "cell.txt").write_text("# epoch 49\n" + SMALL_GENOTYPE.to_darts("FOUND"))
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + SMALL_GENOTYPE.to_json().encode())
    (tmp_path / "lists").write_text(json.dumps(SMALL_GENOTYPE))
    for path in (tmp_path, *(tmp_path / name for name in ("genotype.json", "cell.txt", "bom.json", "lists"))):
        assert load_genotype(path) == load_genotype(str(path)) == as_genotype(path) == as_genotype(str(path))
        assert load_genotype(path) == SMALL_GENOTYPE
    monkeypatch.chdir(tmp_path)
    assert as_genotype("lists") == SMALL_GENOTYPE  # could be a name, but there is none such
    (tmp_path / "darts_v2").write_text(SMALL_GENOTYPE.to_json())
    assert load_genotype("darts_v2") != SMALL_GENOTYPE  # a name goes before a path
    assert load_genotype("./darts_v2") == SMALL_GENOTYPE


def test_unreadable_files_are_told_by_name(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.pt").write_bytes(b"PK\x03\x04\x80\xff\x00")
    (tmp_path / "null.json").write_bytes(b"{\x00}")
    (tmp_path / "huge.json").write_bytes(b" " * (MAX_BYTES + 1))
    (tmp_path / "empty.json").write_bytes(b" \n")
    (tmp_path / "half.json").write_text(SMALL_GENOTYPE.to_json(2)[:200])
    (tmp_path / "wrong.json").write_text(SMALL_GENOTYPE.to_json().replace("sep_conv_3x3", "sep"))
    (tmp_path / "module.py").write_text("import os\n")
    os.mkfifo(tmp_path / "pipe")
    for name, fragment in {
        "folder": "without genotype.json",
        "binary.pt": "binary or not UTF-8",
        "null.json": "binary",
        "huge.json": "too large: the limit is 1048576 bytes",
        "empty.json": "empty",
        "half.json": "genotype JSON, line",
        "wrong.json": "normal.nodes[0][0][0] (node 2): unknown operation 'sep'",
        "module.py": "DARTS text, line 1, column 1: no genotype",
        "pipe": "no regular file",
        "missing.json": "no such file",
    }.items():
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(ValueError, match=name) as caught:
                as_genotype(path)
            assert fragment in str(caught.value)


def wrong_with(name: str, tiers: dict[int, list[str]]) -> list[str]:
    """What a genotype of the package does not keep to; one test for all, since pytest takes longer for each than they
    do."""
    record = genotype_record(name)
    provenance = record["provenance"]
    genotype = load_genotype(name)
    tier, own = provenance.get("tier", 1), name in list_found()
    checks = {
        "its name": NAME.fullmatch(name) is not None and record["name"] == name,
        "where it is from": {"method", "paper", "source"} <= set(provenance),
        "whose figures it has": provenance.get("reported", {"by": "the paper"})["by"] == "the paper",
        "that every form gives it": as_genotype(name) == Genotype.from_json(record) == genotype,
        "its tier": name in (list_found() if own else tiers[tier]),
        "that it is found here": own == provenance["source"].startswith("nas-zoo: search/results/"),
    }
    if tier == 1:  # the others are lines of one file
        file = FOLDER / "cells" / ("found" if own else "") / f"{name}.json"
        checks["the layout of its file"] = file.read_text() == genotype.to_json(2, name=name, provenance=provenance)
    return [what for what, right in checks.items() if not right]


def test_every_genotype_of_the_package_is_read_and_says_where_it_is_from():
    tiers = {tier: list_genotypes(tier) for tier in (1, 2)}
    names = list_genotypes()
    assert len(names) > 400
    assert {name: wrong for name in names if (wrong := wrong_with(name, tiers))} == {}


# Nothing but a ValueError gets out ------------------------------------------------------------------------------------


def test_cells_that_cannot_be_built_say_why_and_keep_what_was_published():
    names = [name for name in list_records() if name not in list_genotypes()]
    assert len(names) == 33
    for name in names:
        record = genotype_record(name)
        assert record["published"].keys() == {"normal", "normal_concat", "reduce", "reduce_concat"}
        assert {"method", "paper", "source", "tier"} <= record["provenance"].keys()
        with pytest.raises(ValueError, match="cannot be built here") as caught:
            load_genotype(name)
        assert record["cannot_build"] in str(caught.value)
    reasons = {name: genotype_record(name)["cannot_build"] for name in names}
    assert "conv_3x1_1x3" in reasons["setn"]
    assert "no reduction cell" in reasons["gdas_f1"]
    assert "reduction cell concatenates nodes 4 and 5" in reasons["snas_aggressive"]


def test_counts_agree_wherever_they_stand():
    counts = count_cells()
    assert counts["records"] == len(list_records()) == counts["published"] + len(list_found())
    assert counts["genotypes"] == len(list_genotypes()) == counts["records"] - 33
    words = f"{counts['published']} published cells (33 of which cannot be built here) and 6 found here"
    assert describe_cells() == words
    for name in (lambda: load_genotype("darts_v9"), lambda: genotype_record("darts_v9")):
        with pytest.raises(ValueError, match=re.escape(words)):
            name()
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    assert f"{counts['published']} published cells come as data" in page


def test_tiers_divide_the_genotypes():
    first, second = list_genotypes(1), list_genotypes(2)
    assert list_genotypes() == sorted(first + second + list_found()) == list_genotypes(None)
    assert list_found() == [
        "da2s_c10", "da2s_e4_c10", "edas_c10", "edas_e8_c10", "edas_warmup_c10", "edas_warmup_e8_c10",
    ]  # fmt: skip
    assert not set(first) & set(second)
    assert len(second) == 349
    assert len(set(list_records())) == len(list_records()) == len(first) + len(second) + 6 + 33
    with pytest.raises(ValueError, match="must be 1, 2 or None"):
        list_genotypes(3)


def test_nodes_that_their_own_code_leaves_out_are_left_out():
    cell = load_genotype("fairdarts_c").normal  # FairDARTS passes over node 3 and the identity that would read it
    assert cell.nodes[1] == ()
    assert cell.concat == (2, 4, 5)
    assert cell.nodes[3] == ((SEP, 0),)
    assert "node 3 has no inputs" in genotype_record("fairdarts_c")["provenance"]["notes"]


words = st.sampled_from([*OPERATIONS, "none", "nodes", "concat", "schema", "version", "provenance", "name", *KINDS, ""])
leaves = st.none() | st.booleans() | st.integers(-2, 9) | st.integers() | st.floats() | words | st.text(max_size=5)
structures = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)
edges = st.lists(st.lists(words | st.integers(-1, 7), max_size=3) | leaves, max_size=3)
almost_cells = st.fixed_dictionaries(
    {"nodes": st.lists(edges, max_size=5) | structures, "concat": st.lists(st.integers(0, 7), max_size=4) | structures}
)
almost_records = st.fixed_dictionaries(
    {},
    optional={
        "schema": st.just("nas-zoo/genotype") | structures,
        "version": st.just(1) | structures,
        "normal": almost_cells | structures,
        "reduce": almost_cells | structures,
        "provenance": structures,
        "name": structures,
    },
)
names = st.sampled_from(["Genotype", "range", "normal", "normal_concat", "reduce", "reduce_concat", "lambda", "f'{"])
values = st.sampled_from(["'skip_connect'", "'none'", "0", "2", "é", "\0", '"', "\\"])
tokens = names | values | st.sampled_from([*"()[]{},=-*.#:", "\n", " "])
darts_texts = st.lists(tokens, max_size=40).map("".join)


def only_a_value_error(function, *arguments):
    try:
        made = function(*arguments)
    except ValueError as error:
        str(error).encode()  # it can be printed
        return
    assert made == Genotype.from_json(made.to_json()) == Genotype.from_darts(made.to_darts())


@pytest.mark.slow
@examples(200)
@given(structures | almost_records)
def test_any_parsed_json_gives_a_genotype_or_a_value_error(value):
    only_a_value_error(Genotype.from_json, value)
    only_a_value_error(Genotype, value, SMALL)
    if not isinstance(value, (str, bytes)):  # a text may be the path of a file that is there
        only_a_value_error(as_genotype, value)
    text = json.dumps(value)
    only_a_value_error(Genotype.from_json, text)
    only_a_value_error(as_genotype, text)


@examples(100)
@given(almost_cells)
def test_any_cell_gives_a_genotype_or_a_value_error(value):
    only_a_value_error(Genotype, value, SMALL)
    only_a_value_error(as_genotype, [SMALL, list(value.values())])
    only_a_value_error(Genotype.from_darts, f"Genotype({value['nodes']!r}, {value['concat']!r}, [['a', 1]], [2])")


@examples(200)
@given(st.text(max_size=60) | darts_texts | st.binary(max_size=60))
def test_any_text_gives_a_genotype_or_a_value_error(text):
    for function in (Genotype.from_json, Genotype.from_darts, as_genotype, load_genotype):
        only_a_value_error(function, text)


@examples(100)
@given(st.sampled_from([DARTS_V2, SMALL_GENOTYPE.to_json(), SMALL_GENOTYPE.to_json(2)]), st.data())
def test_a_damaged_text_gives_a_genotype_or_a_value_error(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    damaged = text[:start] + data.draw(st.text(max_size=3) | tokens) + text[end:]
    for function in (Genotype.from_json, Genotype.from_darts, as_genotype):
        only_a_value_error(function, damaged)
