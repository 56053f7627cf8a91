"""The arithmetic that chooses a size for two budgets."""

import pytest

from nas_zoo.auto.plan import (
    LADDER,
    LEAST_EPOCHS,
    Plan,
    Rung,
    Seconds,
    batch_for,
    default_size,
    divide_time,
    epochs_in,
    layout_for,
    search_size_for,
    sizes_below,
    smaller,
    widest,
)


@pytest.mark.parametrize(
    ("shorter", "size", "layout", "searched"),
    [(8, 8, "cifar", 8), (28, 28, "cifar", 28), (32, 32, "cifar", 32), (64, 64, "cifar", 32), (70, 64, "cifar", 32),
     (100, 96, "imagenet", 32), (224, 128, "imagenet", 32), (4000, 128, "imagenet", 32), (3, 8, "cifar", 8)],
)  # fmt: skip
def test_the_size_follows_the_pictures(shorter, size, layout, searched):
    assert default_size(shorter) == size
    assert layout_for(size) == layout
    assert search_size_for(size) == searched


def test_smaller_sizes_are_tried_of_photographs_only():
    assert sizes_below(128) == [128, 96, 64]
    assert sizes_below(64) == [64]
    assert sizes_below(32) == [32]


@pytest.mark.parametrize("fitting", range(-1, len(LADDER)))
def test_the_widest_that_fits_is_found_by_few_looks(fitting):
    looks = []

    def fits(rung: Rung) -> bool:
        looks.append(rung)
        return LADDER.index(rung) <= fitting

    assert widest(LADDER, fits) == fitting
    assert len(looks) <= 5


def test_the_ladder_rises():
    work = [channels**2 * cells for channels, cells in LADDER]
    assert work == sorted(work)
    assert len(set(LADDER)) == len(LADDER)
    assert Rung(36, 20) in LADDER


def test_smaller_networks_are_tried_from_the_largest_of_them_on():
    assert smaller(Rung(16, 8)) == [Rung(16, 5), Rung(16, 3), Rung(8, 8), Rung(8, 5), Rung(8, 3)]
    assert smaller(Rung(8, 3)) == []
    assert smaller(Rung(6, 5)) == [Rung(6, 3)]
    assert all(rung.init_channels <= 36 for rung in smaller(Rung(36, 20)))


def test_a_batch_leaves_an_epoch_enough_steps():
    assert batch_for(6000, 128) == 128
    assert batch_for(1295, 128) == 64
    assert batch_for(30, 128) == 8
    assert batch_for(7, 128) == 4


def test_epochs_are_one_at_least_and_bounded():
    assert (epochs_in(100, 7, 200), epochs_in(1, 7, 200), epochs_in(1e6, 7, 200)) == (14, 1, 200)


def test_the_time_is_divided_and_the_least_is_known():
    seconds, least = divide_time(
        1000, pieces=100, piece_s=1, network_s=8, networks=5, images=1000, images_per_second=500
    )
    assert seconds.table == 140
    assert seconds.finish == 42
    assert seconds.search + seconds.train == pytest.approx(1000 - 182)
    assert seconds.search == pytest.approx(0.3 * 818)
    assert least == 182 + 20  # training for 10 seconds is not what limits it
    _, least = divide_time(1000, pieces=0, piece_s=1, network_s=8, networks=0, images=1000, images_per_second=5)
    assert least == pytest.approx(42 + LEAST_EPOCHS * 1000 / 5 / 0.7)


def test_a_plan_is_read_again():
    import json

    made = Plan("cifar", 16, 8, 8, 1, 10, 8, 0.2, 0.1, {"a": 0.1}, 100.0, 4, Seconds(1, 2, 3, 4))
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert str(made.shape) == "cifar, C=16 x 8 cells, 10 classes, 1x8x8"
