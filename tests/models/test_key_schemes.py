"""Checkpoints of four other repositories: the converted network computes their logits, another network is refused."""

import re

import pytest
import timm
import torch
from torch import nn

from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.convert import convert_state_dict, describe
from nas_zoo.models.key_schemes import SCHEMES, find_scheme
from nas_zoo.models.public import KEY_SCHEMES
from tests.original_darts import original
from tests.present import present
from tests.their_networks import TheirNetwork

#: Several operations on one edge, and a node without any: FairDARTS' relaxed cells.
SEVERAL = Genotype.from_darts(
    "Genotype(normal=[[('dil_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0)], [('max_pool_3x3', 1)], "
    "[('sep_conv_3x3', 0), ('dil_conv_5x5', 2)]], normal_concat=[2, 3, 4], "
    "reduce=[[('skip_connect', 0), ('dil_conv_3x3', 0), ('skip_connect', 1)], [('sep_conv_3x3', 2)], "
    "[('avg_pool_3x3', 1), ('sep_conv_3x3', 3)]], reduce_concat=[2, 3, 4])"
)
CELLS: dict[str, list[str | Genotype]] = {
    "fairdarts": ["fairdarts_a", "fairdarts_b", SEVERAL],
    "nni": ["darts_v2", "amoebanet_a"],
    "nni_drop_path": ["amoebanet_a"],
    "cdarts": ["cdarts_c10", "darts_v2"],
    "pt_darts": ["darts_v2", "cdarts_c10"],
}
CASES = [(whose, cell) for whose, cells in CELLS.items() for cell in cells]


def network(whose: str, cell: str | Genotype, layout: str = "cifar", c: int = 4, num_cells: int = 6) -> TheirNetwork:
    genotype = cell if isinstance(cell, Genotype) else load_genotype(cell)
    torch.manual_seed(0)
    theirs = TheirNetwork(whose, genotype, layout, c, num_cells, 10)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(present(value), 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                nn.init.uniform_(present(value), -0.3, 0.3)
    return theirs.eval()


@pytest.mark.parametrize(("c", "num_cells", "size"), [(4, 6, 16), (6, 8, 32)])
@pytest.mark.parametrize(("whose", "cell"), CASES, ids=lambda value: value if isinstance(value, str) else "several")
def test_the_converted_network_computes_their_logits(whose, cell, c, num_cells, size):
    layouts = ["cifar"] if whose in ("fairdarts", "pt_darts") else ["cifar", "imagenet"]
    for layout in layouts:
        theirs = network(whose, cell, layout, c, num_cells)
        state = convert_state_dict(theirs.state_dict(), cell, layout, c, num_cells)
        ours = timm.create_model(
            f"cell_net_{layout}", genotype=cell, init_channels=c, num_cells=num_cells, num_classes=10,
            pool_bn=whose == "pt_darts",
        )  # fmt: skip
        ours.load_state_dict(state)
        side = size * 2 if layout == "imagenet" else size
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = theirs(x)
            torch.testing.assert_close(ours.eval()(x), expected, rtol=0, atol=1e-5)
        assert expected.std() > 0.01


def test_names_are_as_the_repositories_write_them():
    """Spelled out from reading those programs, so that network and scheme cannot just agree with each other."""
    for whose, cell, names in (
        ("fairdarts", "fairdarts_a", ["cells.0._ops.2.0.0.op.1.weight", "cells.2._ops.5.1.0.conv_1.weight"]),
        ("nni", "darts_v2", ["stages.0.0.preprocessor.pre0.1.weight", "stages.0.0.ops.0.1.3.running_mean",
                             "stages.1.1.preprocessor.pre0.conv_1.weight"]),
        ("cdarts", "cdarts_c10", ["feature_extractor.0.0.weight", "nas_layers.0.0.preproc0.net.1.weight",
                                  "nas_layers.0.0.dag.0.0.0.net.1.net.2.weight", "fc.bias"]),
        ("pt_darts", "darts_v2", ["stem.1.weight", "cells.2.dag.0.1.0.bn.weight", "linear.weight"]),
    ):  # fmt: skip
        state = network(whose, cell).state_dict()
        assert set(names) <= set(state)
        scheme = find_scheme(state)
        assert scheme is not None
        assert scheme.name == whose
    assert sorted(scheme.name for scheme in SCHEMES) == sorted(KEY_SCHEMES)
    assert present(find_scheme(original(load_genotype("darts_v2"), "cifar", 4, 3).state_dict())).name == "darts"
    assert find_scheme({"fc.weight": None}) is None


def test_layout_and_size_are_read_from_names_of_every_scheme():
    for whose, cell in (("nni", "darts_v2"), ("cdarts", "darts_v2")):
        for layout in ("cifar", "imagenet"):
            found = describe(network(whose, cell, layout, 6, 8).state_dict())
            assert str(found) == f"layout={layout}, init_channels=6, num_cells=8, num_classes=10, in_chans=3"
    assert describe(network("pt_darts", "darts_v2", c=4, num_cells=3).state_dict()).pool_bn


# ------------------------------------------------------------------------------- files that are of another network


def with_more(name: str, **more: tuple[int, ...]) -> dict[str, torch.Tensor]:
    state = dict(original(load_genotype(name), "cifar", 4, 6).state_dict())
    return state | {key.replace("__", "."): torch.zeros(shape) for key, shape in more.items()}


@pytest.mark.parametrize(
    ("state", "cell", "words"),
    [
        # XNAS on ImageNet: squeeze-and-excitation behind the cells
        (with_more("xnas", cells_SE__0__fc__0__weight=(4, 16), cells_SE__0__fc__2__weight=(16, 4)), "xnas",
         "another network, with more than the cells have (layout=cifar, init_channels=4, num_cells=6, num_classes=10, "
         "in_chans=3): cells_SE.0.fc.0.weight and 1 more would be left over"),
        # NSGA-Net: inside the cells
        (with_more("darts_v2", cells__0__se_layer__fc__0__weight=(4, 16)), "darts_v2", "cells.0.se_layer.fc.0.weight"),
        # an edge that the genotype does not have
        (with_more("darts_v2", cells__0___ops__8__op__1__weight=(4, 1, 3, 3)), "darts_v2", "edge 8 of its normal cell"),
        # Att-DARTS: attention behind each operation, and no _ops at all
        ({key.replace("._ops.", "._first_layers."): value for key, value in with_more("darts_v2").items()}, "darts_v2",
         "cells.0._ops.0 holds no weights"),
        # MDENAS: pt.darts' names and a BatchNorm behind poolings; without it, a pooling is not theirs
        ({key: value for key, value in network("pt_darts", "darts_v2").state_dict().items()
          if not key.startswith("cells.2.dag.0.1.0.bn")}, "darts_v2",
         "edge 1 of its reduction cell is max_pool_3x3 from 1, but cells.2._ops.1 holds no weights"),
    ],
)  # fmt: skip
def test_a_file_of_another_network_is_refused_with_what_is_too_much_or_too_little(state, cell, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        convert_state_dict(state, cell)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("whose", ["fairdarts", "nni", "cdarts", "pt_darts"])
def test_other_cells_and_missing_tensors_are_refused_in_every_scheme(whose):
    cell = CELLS[whose][0]
    other = "darts_v1" if whose != "fairdarts" else "fairdarts_b"
    state = network(whose, cell).state_dict()
    with pytest.raises(ValueError, match=r"the genotype does not fit it|would be left over|has shape"):
        convert_state_dict(state, other)
    missing = dict(state)
    name = next(key for key in state if re.search(r"pre(process1|proc1|processor\.pre1)", key) and "weight" in key)
    del missing[name]
    with pytest.raises(ValueError, match=r"cells\.0\.preprocess1\.op\.1\.weight is missing"):
        convert_state_dict(missing, cell)


def test_edges_that_a_genotype_does_not_have_are_passed_over_by_their_numbers():
    """Random_NSAS as its repository writes it, 'none' edges and all; SNAS' list of every edge."""
    for name, listed, numbering in (
        ("random_nsas", 8, ((0, 1, 2, 3, 4, 5, 6), (0, 2, 3, 4, 5, 7))),
        ("snas_mild", 14, ((0, 1, 2, 3, 5, 6, 9, 10), (0, 1, 3, 4, 6, 7, 9, 10))),
    ):
        genotype = load_genotype(name)
        theirs = original(genotype, "cifar", 4, 6)
        state = {}
        for key, value in theirs.state_dict().items():
            if match := re.fullmatch(r"cells\.(\d+)\._ops\.(\d+)\.(.+)", key):
                number = numbering[int(match[1]) in (2, 4)][int(match[2])]
                assert number < listed
                key = f"cells.{match[1]}._ops.{number}.{match[3]}"
            state[key] = value
        with pytest.raises(ValueError, match="does not fit it: edge"):
            convert_state_dict(state, name)
        converted = convert_state_dict(state, name, numbering=numbering)
        ours = timm.create_model("cell_net_cifar", genotype=name, init_channels=4, num_cells=6)
        ours.load_state_dict(converted)
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=0, atol=1e-5)
        # weights on an edge that is said to be 'none' are of another cell
        state[f"cells.0._ops.{listed - 1}.op.1.weight"] = torch.zeros(4, 1, 3, 3)
        with pytest.raises(ValueError, match=r"_ops\.of_no_edge\.\d+\.op\.1\.weight would be left over"):
            convert_state_dict(state, name, numbering=numbering)
