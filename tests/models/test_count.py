"""Counts against figures known from elsewhere, and against a reference that is built otherwise."""

import pytest
import timm
import torch

from nas_zoo.genotype import load_genotype
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.count import count, count_stages, work_out
from nas_zoo.models.table import in_csv, model_rows, paper_figures
from tests.models.test_convert import ODD, SKIPPING
from tests.plain_darts import PlainNetwork


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("darts_v2_c10", 3_349_342, 528_359_040),
        ("darts_v1_c10", 3_169_414, None),  # 3.169M: counted from the released cell
        ("darts_v2_in1k", 4_718_752, 529_911_552),
    ],
)
def test_counts_are_those_known_of_the_released_cells(name, params, macs):
    (row,) = model_rows([name])
    assert row["params"] == params
    assert macs in (None, row["macs"])


# Millions of parameters and of multiply-adds as their authors publish them, in those publications that count as here.
# FairDARTS gives its multiply-adds at 32x32 pixels in its README, its parameters with the auxiliary head (but for C).
PUBLISHED = {
    "cars_a_c10": ("2.4", None), "cars_i_in1k": ("5.1", None),
    "drnas_c10": ("4.1", None), "fairdarts_b_c10": (None, 536), "fairdarts_c_c10": ("2.59", 400),
    "fairdarts_d_c10": (None, 532), "noisydarts_d_c10": ("3.06", None), "pc_darts_c10": ("3.6", None),
    "rlnas_in1k": ("5.7", 629), "sgas_cri1_1_c10": ("3.75", None), "sgas_cri1_1_in1k": ("5.25", None),
    "sgas_cri2_3_in1k": ("5.7", None), "xnas_in1k": (None, 590),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_agree_with_published_ones(name):
    (row,) = model_rows([name])
    params, macs = PUBLISHED[name]
    if params is not None:  # some round, some cut off: within one of the last digit
        assert abs(row["params"] / 1e6 - float(params)) < 10.0 ** -len(params.partition(".")[2])
        assert str(row["paper_params_m"]) == params
    if macs is not None:
        assert abs(row["macs"] / 1e6 - macs) < 1
    if row["layout"] == "imagenet":
        assert macs in (None, row["paper_madds_m"])


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", ["darts_v2", "pc_darts_c10", "data_m4"])
def test_counts_are_those_of_a_plain_network(name, layout):
    genotype = load_genotype(name)
    size = (3, 64, 64) if layout == "imagenet" else (3, 16, 16)
    with torch.device("meta"):
        plain = PlainNetwork(genotype, layout, 4, 5, 7)
    assert count(plain, size) == work_out(genotype, layout, 4, 5, 7, size)


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
@pytest.mark.parametrize("genotype", [ODD, SKIPPING], ids=["odd", "skipping"])
@pytest.mark.parametrize("num_cells", [1, 2, 6])
def test_worked_out_counts_leave_out_what_a_network_leaves_out(genotype, layout, num_cells):
    settings = {"init_channels": 6, "num_cells": num_cells, "num_classes": 0, "in_chans": 1}
    model = timm.create_model(f"cell_net_{layout}", genotype=genotype, device="meta", **settings)
    for size in ((1, 64, 64), (1, 67, 93)):
        assert count(model, size) == work_out(genotype, layout, 6, num_cells, 0, size)
        stages = count_stages(model, size)
        assert sum(stage.params for stage in stages) == count(model, size).params
        assert sum(stage.macs for stage in stages) == count(model, size).macs


def test_figures_of_a_paper_are_told_by_data_and_empty_where_it_says_nothing():
    assert paper_figures("p_darts_c10", "c100")["paper_err"] == 16.55
    assert paper_figures("p_darts_c10", "in1k")["paper_top5_err"] == 7.4
    assert set(paper_figures("racl", "c10").values()) == {None}
    assert in_csv([]) == ""
    assert in_csv([{"a": 1, "b": None}]) == "a,b\n1,\n"
    assert {model["data"] for model in MODELS.values()} == {"c10", "c100", "in1k", "fmnist", "emnist"}


@pytest.mark.parametrize("side", [0, 10**12])
def test_an_image_that_no_tensor_can_be_is_refused(side):
    model = timm.create_model("cell_net_cifar", device="meta", init_channels=2, num_cells=3)
    with pytest.raises(ValueError, match="input_size must be numbers from 1 to 100000"):
        count(model, (3, side, side))
