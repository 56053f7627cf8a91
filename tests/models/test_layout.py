"""Which cell stands where, against tables made by hand from the DARTS paper."""

import pytest

from nas_zoo.models.layout import CellSpec, StemSpec, find_live, plan_network

FOUR = {"normal": 4, "reduce": 4}


def kinds(plan) -> str:
    """'n' or 'r' for every cell."""
    return "".join(cell.kind[0] for cell in plan.cells)


@pytest.mark.parametrize(
    ("num_cells", "expected"),
    [
        (1, "r"),  # both thirds are cell 0: one reduction cell
        (2, "rr"),
        (3, "nrr"),
        (4, "nrrn"),
        (5, "nrnrn"),
        (8, "nnrnnrnn"),
        (14, "nnnnrnnnnrnnnn"),
        (20, "nnnnnnrnnnnnnrnnnnnn"),
    ],
)
@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
def test_reduction_cells_stand_at_the_thirds(layout, num_cells, expected):
    assert kinds(plan_network(layout, 16, num_cells, FOUR)) == expected


def test_cifar_network_of_five_cells_by_hand():
    plan = plan_network("cifar", 16, 5, FOUR, in_chans=1)
    assert plan.stem == (StemSpec(1, 48, 1, 1),)
    assert plan.cells == (
        CellSpec(0, "normal", (48, 48), False, 16, 64, 1),
        CellSpec(1, "reduce", (48, 64), False, 32, 128, 2),
        CellSpec(2, "normal", (64, 128), True, 32, 128, 2),
        CellSpec(3, "reduce", (128, 128), False, 64, 256, 4),
        CellSpec(4, "normal", (128, 256), True, 64, 256, 4),
    )
    assert [cell.stride for cell in plan.cells] == [1, 2, 1, 2, 1]


def test_imagenet_network_of_five_cells_by_hand():
    plan = plan_network("imagenet", 48, 5, FOUR)
    assert plan.stem == (StemSpec(3, 24, 2, 2), StemSpec(24, 48, 2, 4), StemSpec(48, 48, 2, 8))
    assert plan.cells == (
        CellSpec(0, "normal", (48, 48), True, 48, 192, 8),
        CellSpec(1, "reduce", (48, 192), False, 96, 384, 16),
        CellSpec(2, "normal", (192, 384), True, 96, 384, 16),
        CellSpec(3, "reduce", (384, 384), False, 192, 768, 32),
        CellSpec(4, "normal", (384, 768), True, 192, 768, 32),
    )


def test_two_reduction_cells_in_a_row_both_bring_input_0_down():
    plan = plan_network("cifar", 8, 3, FOUR)
    assert [cell.halve_input0 for cell in plan.cells] == [False, False, True]
    assert [cell.in_channels for cell in plan.cells] == [(24, 24), (24, 32), (32, 64)]
    assert [cell.reduction for cell in plan.cells] == [1, 2, 4]


def test_width_follows_the_concat_of_each_kind():
    plan = plan_network("cifar", 10, 5, {"normal": 5, "reduce": 3})
    assert [cell.out_channels for cell in plan.cells] == [50, 60, 100, 120, 200]
    assert [cell.in_channels for cell in plan.cells] == [(30, 30), (30, 50), (50, 60), (60, 100), (100, 120)]


def test_the_smallest_networks_have_channels_in_every_layer():
    for layout in ("cifar", "imagenet"):
        plan = plan_network(layout, 2, 1, {"normal": 1, "reduce": 1}, in_chans=1)
        assert min(stem.out_channels for stem in plan.stem) == (6 if layout == "cifar" else 1)
        assert [cell.out_channels for cell in plan.cells] == [4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist", 16, 8, FOUR), "layout must be one of cifar, imagenet, got 'mnist'"),
        (("cifar", 1, 8, FOUR), "init_channels must be a whole number from 2 to 10000, got 1"),
        (("cifar", 16.0, 8, FOUR), "init_channels must be .*, got 16.0"),
        (("cifar", "16", 8, FOUR), "init_channels must be .*, got '16'"),
        (("cifar", 16, 0, FOUR), "num_cells must be a whole number from 1 to 1000, got 0"),
        (("cifar", 10**9, 8, FOUR), "init_channels must be .*, got 1000000000"),
        (("cifar", 10**5000, 8, FOUR), "init_channels must be .*, got a int too large to show"),
        (("cifar", 16, 10**9, FOUR), "num_cells must be .*, got 1000000000"),
        (("cifar", 16, True, FOUR), "num_cells must be .*, got True"),
        (("cifar", 16, 8, FOUR, 0), "in_chans must be a whole number from 1 to 10000, got 0"),
    ],
)
def test_a_network_that_cannot_be_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_network(*arguments)


@pytest.mark.parametrize(
    ("reads", "outputs", "expected"),
    [
        ([{0, 1}] * 4, [3], {3, 2, 1, 0, -1, -2}),
        ([{1}] * 4, [3], {3, 2, 1, 0, -1}),  # a chain: nothing reads the stem's first output
        ([{0}] * 4, [3], {3, 1, -1}),  # every second cell has no reader
        ([{0}] * 5, [4], {4, 2, 0, -2}),
        ([{0}] * 5, [4, 3], {4, 3, 2, 1, 0, -1, -2}),
        ([{0}, {0}, {0, 1}, {0}, {0}], [4], {4, 2, 1, 0, -1, -2}),
        ([{0, 1}] * 4, [0], {0, -1, -2}),  # cells behind the last one wanted
        ([{0, 1}] * 4, [-1], {-1}),
        ([{0, 1}] * 4, [-3], {-3}),  # a layer of the stem before those two
        ([], [-1], {-1}),
    ],
)
def test_live_cells_are_those_that_reach_an_output(reads, outputs, expected):
    assert find_live(reads, outputs) == expected
