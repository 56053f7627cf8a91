"""Batches as a function of (seed, epoch, sample): order, augmentation, processes, resuming, workers."""

import io
import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from nas_zoo.data.augment import Augment, cut_out, epoch_order, pad_crop_flip, random_draws, resized_crop_box
from nas_zoo.data.batches import Batches
from nas_zoo.data.named import open_parts, open_source
from nas_zoo.data.sources import ImageSource, Skips, UnreadableImage

FULL = Augment(crop_padding=4, flip=True, cutout=8)


def random_source(count=50, size=16, channels=3) -> ImageSource:
    rng = np.random.default_rng(0)
    return ImageSource(
        "random",
        tuple("abcde"),
        rng.integers(0, 5, count),
        (0.5, 0.4, 0.3)[:channels],
        (0.2, 0.3, 0.25)[:channels],
        in_chans=channels,
        image_size=size,
        images=rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8),
    )


def held(source: ImageSource) -> np.ndarray:
    assert source.images is not None
    return source.images


@pytest.fixture
def photographs(tmp_path):
    """Images of several sizes as files, which a source can hold or stream."""
    rng = np.random.default_rng(1)
    for label, number in itertools.product("xyz", range(6)):
        (tmp_path / label).mkdir(exist_ok=True)
        shape = (int(rng.integers(20, 50)), int(rng.integers(20, 50)), 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / label / f"{number}.png")
    return tmp_path


def training(source, **changes):
    options: dict[str, Any] = {"batch_size": 8, "augment": FULL, "shuffle": True, "seed": 5, "drop_last": True}
    options |= changes
    return Batches(source, options.pop("indices", None), **options)


def assert_same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


# ---- random numbers ----


def test_draws_are_uniform_and_independent_of_company():
    draws = random_draws(0, 0, np.arange(20_000), 4)
    assert draws.shape == (20_000, 4)
    assert 0 <= draws.min() < draws.max() < 1
    for column in draws.T:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square with 19 degrees of freedom, p = 0.0007
    correlations = np.corrcoef(np.concatenate([draws.T, random_draws(0, 1, np.arange(20_000), 4).T]))
    assert abs(correlations - np.eye(8)).max() < 0.03
    some = np.array([17, 3, 19_999])
    assert (random_draws(0, 0, some, 4) == draws[some]).all()
    assert (random_draws(0, 0, some, 2) == draws[some, :2]).all()
    for other in (random_draws(1, 0, some, 4), random_draws(0, 1, some, 4), random_draws(0, 0, some, 4, stream=0)):
        assert (other != draws[some]).all()


def test_draws_are_the_same_for_ever():
    # Published runs are repeated from their seeds: these numbers may not change with a version.
    assert random_draws(42, 7, np.array([0, 123456]), 2).tolist() == EXPECTED_DRAWS
    assert epoch_order(3, 1, np.arange(10)).tolist() == EXPECTED_ORDER
    random_draws(-1, -5, np.array([0]), 1)  # any whole numbers


EXPECTED_DRAWS = [[0.549835484266229, 0.9302317865258442], [0.17908707858273998, 0.28091162865635566]]
EXPECTED_ORDER = [5, 8, 6, 0, 3, 2, 4, 9, 7, 1]


# ---- the batched transforms against a slow reference ----


def darts_cutout(image: torch.Tensor, length: int, y: int, x: int) -> torch.Tensor:
    """DARTS utils.Cutout, its random centre given."""
    height, width = image.size(1), image.size(2)
    mask = np.ones((height, width), np.float32)
    y1, y2 = np.clip(y - length // 2, 0, height), np.clip(y + length // 2, 0, height)
    x1, x2 = np.clip(x - length // 2, 0, width), np.clip(x + length // 2, 0, width)
    mask[y1:y2, x1:x2] = 0.0
    return image * torch.from_numpy(mask).expand_as(image)


def one_by_one(source, augment, seed, epoch, index):
    """The DARTS transforms of one sample by torchvision's own functions."""
    size = source.image_size
    u = random_draws(seed, epoch, np.array([index]), 5)[0]
    picture = Image.fromarray(source.image(index).squeeze())
    picture = tvf.pad(picture, [augment.crop_padding] * 4, fill=0)
    top, left = (int(v * (2 * augment.crop_padding + 1)) for v in u[:2])
    picture = tvf.crop(picture, top, left, size, size)
    if augment.flip and u[2] >= 0.5:
        picture = tvf.hflip(picture)
    image = tvf.normalize(tvf.to_tensor(picture), source.mean, source.std)
    return darts_cutout(image, augment.cutout, int(u[3] * size), int(u[4] * size))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augment",
    [FULL, Augment(cutout=0), Augment(flip=False, cutout=5), Augment(crop_padding=0), Augment(0, False, 0)],
)
def test_batched_augmentation_is_torchvisions_and_darts_one_by_one(augment, channels):
    source = random_source(channels=channels)
    batches = training(source, augment=augment)
    order = epoch_order(5, 2, np.arange(50))
    for step, (images, labels) in enumerate(batches.epoch(2)):
        for row, index in enumerate(order[8 * step : 8 * step + 8]):
            assert labels[row] == source.labels[index]
            assert torch.equal(images[row], one_by_one(source, augment, 5, 2, index))


def test_augmentation_reaches_every_offset_both_mirrors_and_every_cutout_centre():
    source = random_source(count=6000, size=4)
    batches = training(source, augment=Augment(crop_padding=2, cutout=2), batch_size=6000)
    plan = batches._plan(0, np.arange(6000)).numpy()
    for column, count in ((2, 5), (3, 5), (4, 2), (5, 4), (6, 4)):
        seen = np.bincount(plan[:, column], minlength=count)
        assert len(seen) == count
        assert abs(seen / 6000 - 1 / count).max() < 0.03


def test_padding_is_black_before_scaling_and_cutout_the_mean_after_it():
    source = replace(random_source(), images=np.full((50, 16, 16, 3), 255, np.uint8))
    black = -torch.tensor(source.mean) / torch.tensor(source.std)
    images = next(training(source, augment=Augment(crop_padding=16, cutout=0), batch_size=48).epoch(0))[0]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.isclose(pixels, black).all(dim=1).any()
    cut = next(training(source, augment=Augment(0, False, 8), batch_size=48).epoch(0))[0]
    per_image = (cut == 0).all(dim=1).flatten(1).sum(1)
    assert (per_image <= 64).all()
    assert (per_image >= 16).all()  # a centre in the corner leaves a quarter


def test_crop_and_cutout_by_hand():
    image = torch.arange(1, 5, dtype=torch.uint8).view(1, 2, 2, 1)
    top, left, flip = torch.tensor([0]), torch.tensor([1]), torch.tensor([1])
    assert pad_crop_flip(image, 1, top, left, flip)[0, :, :, 0].tolist() == [[0, 0], [2, 1]]
    assert pad_crop_flip(image, 0, top, top, top).equal(image)
    ones = torch.ones(1, 1, 4, 4)
    assert cut_out(ones, 2, torch.tensor([0]), torch.tensor([3]))[0, 0].tolist()[0] == [1, 1, 0, 0]
    assert ones.sum() == 14


def test_without_augmentation_images_are_scaled_in_order():
    source = random_source()
    images, labels = zip(*Batches(source, None, 8).epoch(0), strict=True)
    expected = torch.stack([tvf.normalize(tvf.to_tensor(image), source.mean, source.std) for image in held(source)])
    assert torch.equal(torch.cat(images), expected)
    assert torch.cat(labels).tolist() == source.labels.tolist()
    assert [len(part) for part in images] == [8] * 6 + [2]
    assert torch.cat(images).dtype == torch.float32
    assert labels[0].dtype == torch.int64


def test_mean_and_std_can_be_given():
    source = random_source()
    images, _ = next(Batches(source, None, 50, mean=(0.0,) * 3, std=(1.0,) * 3).epoch(0))
    assert torch.equal(images, torch.from_numpy(held(source)).permute(0, 3, 1, 2) / 255)


# ---- order ----


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own():
    source = replace(random_source(), labels=np.arange(50), classes=tuple(map(str, range(50))))
    batches = training(source, drop_last=False)
    orders = [torch.cat([labels for _, labels in batches.epoch(epoch)]).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])
    other = training(source, drop_last=False, seed=6)
    assert torch.cat([labels for _, labels in other.epoch(0)]).tolist() != orders[0]


def test_epochs_differ_in_augmentation_even_without_shuffling():
    batches = training(random_source(), shuffle=False)
    (first, labels), (second, other_labels) = next(batches.epoch(0)), next(batches.epoch(1))
    assert torch.equal(labels, other_labels)
    assert not torch.equal(first, second)


def test_counts_of_steps_and_samples():
    source = random_source()
    assert (training(source).steps_per_epoch, training(source).num_samples) == (6, 50)
    assert training(source, drop_last=False).steps_per_epoch == 7 == len(training(source, drop_last=False))
    assert len(list(training(source).epoch(0))) == 6
    some = training(source, indices=np.array([4, 9, 2]), batch_size=3)
    assert (some.steps_per_epoch, some.num_samples) == (1, 3)


@pytest.mark.parametrize("form", ["device", "stream"])
@pytest.mark.parametrize("start", [0, 1, 5, 6])
def test_starting_later_is_the_same_as_skipping(form, start):
    source, limit = random_source(), 2.0 if form == "device" else 0.0
    resumed = list(training(source, device_limit_gb=limit).epoch(3, start))
    assert len(resumed) == 6 - start
    if resumed:
        assert_same(resumed, itertools.islice(training(source, device_limit_gb=limit).epoch(3), start, None))


def test_epochs_that_overlap_do_not_disturb_each_other():
    batches = training(random_source())
    first, second = batches.epoch(0), batches.epoch(1)
    mixed = [pair for pairs in zip(first, second, strict=True) for pair in pairs]
    assert_same(mixed[::2], batches.epoch(0))
    assert_same(mixed[1::2], batches.epoch(1))


def test_indices_choose_samples_and_keep_each_samples_augmentation():
    source = random_source()
    half = np.array([7, 30, 2, 11])
    for limit in (2.0, 0.0):
        images, labels = next(
            training(source, indices=half, shuffle=False, batch_size=4, device_limit_gb=limit).epoch(1)
        )
        assert labels.tolist() == source.labels[half].tolist()
        for row, index in enumerate(half):
            assert torch.equal(images[row], one_by_one(source, FULL, 5, 1, index))


# ---- processes ----


@pytest.mark.parametrize("form", ["device", "stream"])
@pytest.mark.parametrize("world", [2, 4])
def test_rows_of_all_ranks_interleaved_are_the_batch_of_one_process(form, world):
    source, limit = random_source(), 2.0 if form == "device" else 0.0
    whole = list(training(source, device_limit_gb=limit).epoch(1))
    ranks = [list(training(source, device_limit_gb=limit, rank=r, world=world).epoch(1)) for r in range(world)]
    for step, (images, labels) in enumerate(whole):
        for r in range(world):
            assert torch.equal(images[r::world], ranks[r][step][0])
            assert torch.equal(labels[r::world], ranks[r][step][1])


@pytest.mark.parametrize("count", [50, 49, 48])
def test_evaluation_gives_every_sample_to_exactly_one_rank(count):
    source = replace(random_source(count), labels=np.arange(count), classes=tuple(map(str, range(count))))
    seen = [
        labels
        for rank in range(3)
        for _, labels in Batches(source, None, 12, rank=rank, world=3).epoch(0)
        if len(labels)
    ]
    assert sorted(torch.cat(seen).tolist()) == list(range(count))
    assert all(len(labels) > 0 for labels in seen)  # never an empty batch, whose mean loss would be nan


# ---- held on the device or streamed ----


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("resized_crop", [False, True])
# On one CPU torch warns of two workers; what they give is asked here.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_gives_the_same_pixels(photographs, workers, resized_crop):
    decoded = open_source(photographs, image_size=24, split_seed=1)
    streamed = open_source(photographs, image_size=24, split_seed=1, stream=True)
    streamed = replace(streamed, mean=decoded.mean, std=decoded.std)
    augment = replace(FULL, random_resized_crop=resized_crop)
    expected = training(decoded, batch_size=4, augment=augment)
    other = training(streamed, batch_size=4, augment=augment, device_limit_gb=0.0, workers=workers)
    assert (expected.form, other.form) == ("stream" if resized_crop else "device", "stream")
    assert_same(expected.epoch(1), other.epoch(1))
    assert_same(itertools.islice(expected.epoch(1), 1, None), other.epoch(1, start=1))


def test_lazy_source_that_fits_is_decoded_once_to_the_device(photographs):
    decoded = open_source(photographs, image_size=24)
    lazy = replace(open_source(photographs, image_size=24, stream=True), mean=decoded.mean, std=decoded.std)
    batches = training(lazy, batch_size=4)
    assert batches.form == "device"
    assert_same(batches.epoch(0), training(decoded, batch_size=4).epoch(0))


def test_nothing_touches_the_global_generators():
    torch.manual_seed(0)
    state, others = torch.get_rng_state(), random.getstate()
    for limit, workers in ((2.0, 0), (0.0, 0), (0.0, 1)):
        list(training(random_source(), device_limit_gb=limit, workers=workers).epoch(0))
    assert torch.equal(state, torch.get_rng_state())
    assert random.getstate() == others


def test_batches_leave_the_source_as_it_was():
    source = random_source()
    before = held(source).copy()
    list(training(source).epoch(0))
    np.testing.assert_array_equal(held(source), before)


@pytest.mark.parametrize("form", ["device", "stream"])
def test_channels_last_has_the_same_values(form):
    source, limit = random_source(), 2.0 if form == "device" else 0.0
    usual = list(training(source, device_limit_gb=limit).epoch(0))
    last = list(training(source, device_limit_gb=limit, memory_format=torch.channels_last).epoch(0))
    assert_same(usual, last)
    assert usual[0][0].is_contiguous()
    assert last[0][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_images_are_resized_once_to_the_size_asked_for():
    digits = open_source("digits")
    batches = Batches(digits, None, 64, image_size=16, augment=Augment(2, False), shuffle=True, drop_last=True)
    images, _ = next(batches.epoch(0))
    assert images.shape == (64, 1, 16, 16)
    images, _ = next(Batches(digits, np.array([3]), 1, image_size=16).epoch(0))
    expected = Image.fromarray(held(digits)[3, :, :, 0]).resize((16, 16), Image.Resampling.BILINEAR)
    assert torch.equal(images[0], tvf.normalize(tvf.to_tensor(expected), digits.mean, digits.std))


# ---- random resized crops ----


def test_resized_crops_lie_inside_and_have_torchvisions_distribution():
    torch.manual_seed(0)
    width, height = 60, 40
    draws = random_draws(0, 0, np.arange(4000), 40, stream=2)
    boxes = np.array([resized_crop_box(row, (0.08, 1.0), width, height) for row in draws])
    left, top, right, bottom = boxes.T
    assert (boxes >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    picture = Image.new("L", (width, height))
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    for ours, other in ((top, 0), (left, 1), (bottom - top, 2), (right - left, 3)):
        for share in (0.1, 0.5, 0.9):
            assert abs(np.quantile(ours, share) - np.quantile(theirs[:, other], share)) < 1.6  # pixels


def test_resized_crop_falls_back_to_the_largest_centred_part():
    draws = np.full(40, 0.999)
    assert resized_crop_box(draws, (1.0, 1.0), 100, 10) == pytest.approx((50 - 20 / 3, 0, 50 + 20 / 3, 10))
    assert resized_crop_box(draws, (1.0, 1.0), 10, 100) == pytest.approx((0, 50 - 20 / 3, 10, 50 + 20 / 3))


def test_resized_crop_is_cut_from_the_original_image(tmp_path):
    # The right half white: a held centre crop of 8 pixels would show as blur at the edge of a small crop.
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            (tmp_path / label / f"{number}.png").write_bytes(stream.getvalue())
    source = open_source(tmp_path, image_size=8)
    augment = Augment(0, False, 0, random_resized_crop=True, crop_area=(0.01, 0.02))
    images = torch.cat([x for e in range(20) for x, _ in training(source, batch_size=2, augment=augment).epoch(e)])
    low, high = images.amin(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))
    assert ((high - low) < 1e-6).float().mean() > 0.7  # nearly all are all black or all white


# ---- errors ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size 0 .* must be a positive multiple"),
        ({"batch_size": 8, "world": 3}, r"batch_size 8 \(of all processes together\) .* of the 3 process"),
        ({"world": 0}, "world must be 1 process or more, got 0"),
        ({"rank": 2, "world": 2}, "rank must be from 0 to 1, got 2"),
        ({"workers": -1}, "workers must be 0 or more, got -1"),
        ({"batch_size": 64}, "batch_size 64 is larger than the 50 images of random"),
        ({"batch_size": 11, "world": 11, "drop_last": False}, "last batch of 6 images does not divide by 11 processes"),
        ({"mean": (0.5,), "std": (0.5,)}, r"must have 3 values each, std above 0, for the 3 channel\(s\) of random"),
        ({"std": (0.5, 0.0, 0.5)}, "std above 0"),
        ({"indices": np.array([50])}, "sample indices must be whole numbers from 0 to 49"),
        ({"indices": np.array([], dtype=int)}, "no samples chosen"),
    ],
)
def test_options_that_cannot_work_are_errors(options, words):
    with pytest.raises(ValueError, match=words):
        training(random_source(), **options)


def test_start_out_of_range_is_an_error_at_once():
    with pytest.raises(ValueError, match="start must be from 0 to the 6 batches of an epoch, got 7"):
        training(random_source()).epoch(0, start=7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop_padding": -1}, "crop_padding must be 0 or more pixels, got -1"),
        ({"cutout": -2}, "cutout must be 0 or more pixels, got -2"),
        ({"crop_area": (0.5, 0.1)}, r"crop_area must be two fractions .*got \(0.5, 0.1\)"),
    ],
)
def test_augmentation_out_of_range_is_an_error(options, words):
    with pytest.raises(ValueError, match=words):
        Augment(**options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("limit", [2.0, 0.0])
def test_a_gpu_gives_the_pixels_of_the_cpu(limit):
    source = random_source()
    expected = training(source).epoch(0)
    other = training(source, device="cuda", device_limit_gb=limit).epoch(0)
    for (images, labels), (gpu_images, gpu_labels) in zip(expected, other, strict=True):
        assert gpu_images.device.type == "cuda"
        torch.testing.assert_close(gpu_images.cpu(), images, rtol=1e-6, atol=1e-6)  # a GPU may divide differently
        assert torch.equal(gpu_labels.cpu(), labels)


# ---- unreadable images ----


def truncated(place):
    """A class folder's second image cut in half: its header is whole, so that it is found when it is decoded."""
    file = place / "y" / "1.png"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_file_of_a_streamed_set_is_named_in_one_line(photographs, workers):
    truncated(photographs)
    skips = Skips(offered=True)
    source = open_source(photographs, image_size=16, stream=True, test_data=photographs, skips=skips)
    words = r"'y/1.png' in .*; go on without it: --resume --skip-unreadable 1"
    with pytest.raises(UnreadableImage, match=words) as caught:
        list(training(source, device_limit_gb=0, workers=workers).epoch(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_are_counted_and_batches_keep_their_size(photographs, workers, caplog):
    intact = open_source(photographs, image_size=16, stream=True, test_data=photographs)
    whole = training(intact, device_limit_gb=0)
    first = [list(whole.epoch(epoch)) for epoch in range(2)]
    truncated(photographs)
    source = open_source(photographs, image_size=16, stream=True, test_data=photographs, skips=Skips(1))
    for epoch, expected in enumerate(first):
        order = epoch_order(5, epoch, np.arange(len(source))).reshape(-1)[: 8 * len(expected)].reshape(-1, 8)
        bad = 7  # x/0 ... x/5, y/0, y/1
        batches = training(source, device_limit_gb=0, workers=workers).epoch(epoch)
        for rows, (images, labels), (whole_images, whole_labels) in zip(order, batches, expected, strict=True):
            assert images.shape == whole_images.shape
            good = np.flatnonzero(rows != bad)
            assert torch.equal(images[: len(good)], whole_images[good])
            assert torch.equal(labels[: len(good)], whole_labels[good])
            if len(good) < 8:  # its place is taken by the first of the batch
                assert torch.equal(images[7], images[0])
    assert len(source.skips.found) == 1
    assert sum("skipped (1 of at most 1)" in record.getMessage() for record in caplog.records) == 1
    tested = Batches(source, None, 6, device_limit_gb=0)
    assert sum(len(labels) for _, labels in tested.epoch(0)) == len(source) - 1


def test_skipped_images_leave_a_set_that_is_held(photographs):
    truncated(photographs)
    with pytest.raises(UnreadableImage, match="replace or remove it, or leave it out: --skip-unreadable 1"):
        open_source(photographs, image_size=16, test_data=photographs, skips=Skips(offered=True))
    source = open_source(photographs, image_size=16, test_data=photographs, skips=Skips(1))
    assert len(source) == len(held(source)) == 17
    assert source.files is not None
    assert "y/1.png" not in source.files.names
    (photographs / "z" / "3.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"'z/3.png'.*\(1 other skipped before\).*--skip-unreadable 2"):
        open_source(photographs, test_data=photographs, skips=Skips(1, offered=True))


@pytest.mark.parametrize("stream", [False, True])
def test_one_error_names_the_unreadable_images_of_all_parts(photographs, stream):
    for number in range(4):
        (photographs / "y" / f"{number}.png").write_bytes(b"no picture")
    (photographs / "z" / "3.png").write_bytes(b"")
    words = r"^5 images cannot be read: .*'y/0.png'.*'y/2.png'.*; and 2 more; .*leave them out: --skip-unreadable 5$"
    with pytest.raises(UnreadableImage, match=words) as caught:
        open_parts(photographs, image_size=16, stream=stream, skips=Skips(offered=True))
    assert "3.png" not in str(caught.value)
    parts = open_parts(photographs, image_size=16, stream=stream, skips=Skips(5))
    assert sum(map(len, parts.values())) == 18 - 5


def test_a_part_of_a_streamed_set_that_is_held_does_without_skipped_images(photographs):
    truncated(photographs)  # number 7
    source = open_source(photographs, image_size=16, stream=True, test_data=photographs, skips=Skips(1))
    batches = Batches(source, np.array([12, 7, 3]), 2)
    assert batches.form == "device"
    assert (batches.num_samples, batches.indices.tolist()) == (2, [12, 3])
    (images, labels), *more = batches.epoch(0)
    assert more == []
    assert labels.tolist() == [2, 0]
    assert torch.equal(images, next(iter(Batches(source, np.array([12, 3]), 2).epoch(0)))[0])


def test_too_little_shared_memory_is_told_in_one_line(monkeypatch):
    def full(*args: object) -> None:  # what torch says in a worker where /dev/shm is full
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
        )

    monkeypatch.setattr(ImageSource, "image", full)
    batches = Batches(random_source(), None, 8, device_limit_gb=0, workers=1)
    with pytest.raises(ValueError, match=r"give --workers 0, or the container more of it \(docker run --shm-size 2g\)"):
        next(iter(batches.epoch(0)))
