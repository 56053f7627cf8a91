"""What is found in pictures before anything starts, each kind of finding beside pictures that have none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_zoo.auto.look import LEAST_IN_CLASS, Look, Seen, look, same_pictures
from nas_zoo.data.division import Division
from nas_zoo.data.named import open_parts
from nas_zoo.data.sources import Skips
from tests.auto.pictures import picture, write_folder


def found_in(place: Path, skip: int = 0, **options: Any) -> tuple[Look, Division]:
    parts = open_parts(place, stream=True, skips=Skips(skip, offered=True), **options)
    return look(parts, 0, own_test=bool(parts["test"].part) or "test_data" in options)


def told(found: Look) -> str:
    return " ".join(found.sentences())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", {"cat": 60, "dog": 70})


def test_pictures_without_a_fault_are_told_in_two_sentences_and_divided_by_class(folder):
    found, division = found_in(folder)
    assert found.counts["test"] == {"cat": 12, "dog": 14}  # the fifth that every program holds out
    assert found.counts["val"] == {"cat": 5, "dog": 6}
    assert found.n == {"train": 93, "val": 11, "test": 26}
    assert (found.widths, found.heights, found.shorter) == ((12, 12, 12), (12, 12, 12), 12)
    assert len(found.sentences()) == 3  # the third: fewer than 50 of a class
    assert "(held out)" in told(found)
    assert found.held_out == ("val", "test")
    assert (found.repeated, found.contradictions, found.leaks, division.left_out) == ((), (), (), ())


def test_the_division_is_a_function_of_the_seed_and_its_file_gives_the_same_parts(folder, tmp_path):
    parts = open_parts(folder, stream=True)
    one, again, other = (look(parts, seed, own_test=False)[1] for seed in (1, 1, 2))
    assert one == again
    assert one.val != other.val
    from dataclasses import asdict

    from nas_zoo.runs.files import write_json

    write_json(tmp_path / "division.json", asdict(one))
    assert Division.read(tmp_path / "division.json") == one
    divided = one.of(parts)
    names = {part: set(source.files.names) for part, source in divided.items() if source.files is not None}
    assert names["val"] == set(one.val)
    assert names["train"] | names["val"] == set(parts["train"].files.names)  # type: ignore[union-attr]
    assert not names["train"] & names["val"]


def test_a_division_of_other_data_is_refused(folder):
    with pytest.raises(ValueError, match=r"'no\.png'; it was made for other data"):
        Division(val=("no.png",)).of(open_parts(folder, stream=True))


def copy(folder: Path, source: str, target: str) -> None:
    shutil.copyfile(folder / source, folder / target)


def in_another_format(folder: Path, source: str, target: str) -> None:
    Image.open(folder / source).save(folder / target)


@pytest.mark.parametrize("doubled", [copy, in_another_format])
def test_the_same_picture_twice_in_a_class_is_told_and_stays_on_one_side(
    folder: Path, doubled: Callable[[Path, str, str], None]
):
    for number in range(60):
        end = "png" if doubled is copy else "bmp"
        doubled(folder, f"cat/{number:03d}.png", f"cat/copy{number}.{end}")
    found, division = found_in(folder)
    assert len(found.repeated) + len(found.leaks) >= 60
    divided = division.of(open_parts(folder, stream=True))
    digits = {
        part: {name.split("/")[1].split(".")[0].removeprefix("copy").zfill(3) for name in source.files.names
               if name.startswith("cat")}
        for part, source in divided.items() if source.files is not None
    }  # fmt: skip
    assert not digits["train"] & (digits["val"] | digits["test"])
    assert "also in the part that watches or tests; the training copies are left out" in told(found)


def test_the_same_picture_in_two_classes_is_a_contradiction(folder):
    copy(folder, "cat/000.png", "dog/zero.png")
    found, _ = found_in(folder)
    (names,) = found.contradictions
    assert {name.split(": ")[1] for name in names} == {"cat/000.png", "dog/zero.png"}
    assert "in more than one class" in told(found)


def test_a_training_picture_that_is_in_the_test_part_too_does_not_train(tmp_path):
    place = write_folder(tmp_path / "a", {"train/cat": 60, "train/dog": 60, "test/cat": 20, "test/dog": 20})
    copy(place, "test/cat/003.png", "train/cat/leak.png")
    found, division = found_in(place)
    assert division.left_out == ("train/cat/leak.png",)
    assert found.left_out == division.left_out
    assert found.n["train"] == 120 - 12
    assert "1 training picture also in the part" in told(found)
    assert "(the data set's own)" in told(found)


def test_a_picture_that_watches_and_tests_is_no_training_picture(tmp_path):
    place = write_folder(tmp_path / "a", {f"{part}/{name}": 20 for part in ("train", "val", "test")
                                          for name in ("cat", "dog")})  # fmt: skip
    copy(place, "test/cat/003.png", "val/cat/same.png")
    text = told(found_in(place)[0])
    assert "1 picture both in the part that watches and in the one that tests" in text
    assert "val/cat/same.png" in text
    assert "training picture also" not in text


def test_a_val_part_of_its_own_is_used_as_it_is(tmp_path):
    place = write_folder(
        tmp_path / "a",
        {"train/cat": 20, "train/dog": 20, "val/cat": 10, "val/dog": 10, "test/cat": 10, "test/dog": 10},
    )
    copy(place, "val/cat/003.png", "train/cat/leak.png")
    found, division = found_in(place)
    assert division.val == ()
    assert division.left_out == ("train/cat/leak.png",)
    assert found.n == {"train": 40, "val": 20, "test": 20}
    assert found.held_out == ()


def test_unreadable_pictures_are_refused_and_with_the_flag_told(folder):
    (folder / "cat" / "000.png").write_bytes((folder / "cat" / "000.png").read_bytes()[:200])  # the header is whole
    (folder / "dog" / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="leave it out: --skip-unreadable"):
        found_in(folder)
    found, division = found_in(folder, skip=2)
    assert len(found.unreadable) == 2
    assert "2 pictures cannot be read" in told(found)
    assert not {"cat/000.png", "dog/bad.jpg"} & {*division.val, *division.left_out}
    assert sum(found.n.values()) == 129


def test_one_error_tells_all_that_is_wrong_with_the_pictures(tmp_path):
    place = write_folder(tmp_path / "a", {"cat": 60, "dog": 60, "yak": 3, "ant": 1})
    (place / "bee").mkdir()
    for number in range(10):
        file = place / "cat" / f"{number:03d}.png"
        file.write_bytes(file.read_bytes()[:200] if number % 2 else b"no picture")  # half of them have a whole header
    copy(place, "cat/050.png", "dog/same.png")
    skips = Skips(offered=True)
    with pytest.raises(ValueError, match=f"{place}: 10 images cannot be read") as refused, skips.together():
        look(open_parts(place, stream=True, skips=skips, few=True), 0, own_test=False)
    said = str(refused.value)
    assert said.count("corrupt image") == 3
    assert "and 7 more; replace or remove them, or leave them out: --skip-unreadable 10" in said
    assert "class 'ant' has 1, 'bee' has 0, 'yak' has 3; each class needs at least 10 pictures" in said
    assert "1 picture in more than one class" in said
    assert len(skips.found) == 0


def test_a_class_whose_pictures_are_all_in_the_test_part_too_is_refused(tmp_path):
    place = write_folder(tmp_path / "a", {"train/cat": 20, "train/dog": 12, "test/cat": 10, "test/dog": 12})
    for number in range(12):
        copy(place, f"test/dog/{number:03d}.png", f"train/dog/{number:03d}.png")
    with pytest.raises(ValueError, match="class 'dog': none is left to train on"):
        found_in(place)


def test_too_few_pictures_of_a_class_are_refused_with_the_number_needed(tmp_path):
    place = write_folder(tmp_path / "a", {"cat": 60, "dog": LEAST_IN_CLASS - 1})
    with pytest.raises(ValueError, match=f"class 'dog' has 9; each class needs at least {LEAST_IN_CLASS} pictures"):
        found_in(place)
    write_folder(tmp_path / "b", {"cat": 60, "dog": LEAST_IN_CLASS})
    found_in(tmp_path / "b")


def test_classes_of_unequal_size_are_told(tmp_path):
    found, _ = found_in(write_folder(tmp_path / "a", {"cat": 200, "dog": 60}))
    assert found.imbalance > 3
    assert "balanced accuracy" in told(found)
    assert "'dog'" in told(found)


def test_a_wordnet_id_is_told_in_words(tmp_path):
    found, _ = found_in(write_folder(tmp_path / "a", {"n01440764": 20, "n02102040": 20}))
    assert "'tench (n01440764)' (14), 'English springer (n02102040)' (14)" in told(found)


def test_what_was_found_is_read_again_from_its_json(folder):
    import json

    copy(folder, "cat/000.png", "dog/zero.png")
    found, _ = found_in(folder)
    assert Look.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_names_with_control_characters_are_told_harmlessly(tmp_path):
    place = write_folder(tmp_path / "a", {"cat": 60, "dog": 60})
    picture(1).save(place / "dog" / "\x1b[31m.png")
    assert "\x1b" not in told(found_in(place)[0])


def test_the_sizes_told_are_those_of_the_files_whatever_part_of_them_is_looked_at(tmp_path):
    place = write_folder(tmp_path / "a", {"cat": 20, "dog": 20})
    Image.new("RGB", (900, 3)).save(place / "cat" / "long.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (800, 4)).save(place / "dog" / "turned.jpg", exif=exif)
    found, _ = found_in(place)
    assert (found.widths[::2], found.heights[::2]) == ((4, 900), (3, 800))


def test_arrays_are_looked_at_as_files_are():
    found, division = look(open_parts("digits"), 0, own_test=True)[0:2]
    assert found.n == {"train": 1295, "val": 143, "test": 359}
    assert found.channels == 1
    assert len(division.val) == 143


def photograph(seed: int) -> Image.Image:
    """Large soft blobs, as thumbnails of real pictures are; each seed another."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((96, 80), Image.Resampling.BICUBIC)


def test_a_picture_that_was_saved_again_or_resized_is_the_same_and_others_are_not(tmp_path):
    place = tmp_path / "photos"
    for number in range(80):
        folder = place / ("cat" if number < 40 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        photograph(number).save(folder / f"{number:02d}.png")
    found, _ = found_in(place)
    assert (found.repeated, found.contradictions, found.leaks) == ((), (), ())
    photograph(3).save(place / "dog" / "again.jpg", quality=70)
    photograph(5).resize((192, 160), Image.Resampling.BICUBIC).save(place / "dog" / "larger.png")
    found, division = found_in(place)
    same = {frozenset(name.split("/")[1] for name in names) for names in found.contradictions}
    assert same == {frozenset({"03.png", "again.jpg"}), frozenset({"05.png", "larger.png"})}
    sides = [{name.split(":")[0] for name in names} for names in found.leaks]
    assert len(division.left_out) == len(sides)


def test_flat_pictures_are_the_same_only_where_all_their_pixels_are(tmp_path):
    seen = [Seen("a", 64, 64), Seen("b", 64, 64), None, Seen("a", 64, 64)]
    assert same_pictures(seen) == [0, 1, -1, 0]
