import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest

from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    describe,
    given_flags,
    read_config,
    setting,
    settings_from,
    to_dict,
)


@dataclass(frozen=True)
class TinySettings:
    """How the tiny program runs."""

    data: str = setting("digits", "name or folder of the images")
    epochs: int = setting(50, "passes over 100% of the training images")
    lr: float = setting(0.025, "learning rate at the start")
    time_budget_s: float | None = setting(None, "stop after this long", unit="s")
    bfloat16: bool = setting(False, "half-precision steps")
    out: Path = setting(Path("runs"), "folder of the run")
    resume: Path | None = setting(None, "checkpoint to go on from")
    mean: tuple[float, ...] = setting((0.5,), "mean of the pixels")
    operations: tuple[str, ...] = setting(("skip_connect", "sep_conv_3x3"), "candidates")
    betas: tuple[float, float] = setting((0.5, 0.999), "Adam's")
    pool: Literal["avg", "max"] = setting("avg", "last pooling")
    order: Literal[1, 2] = setting(1, "order of the step")
    flip: bool | None = setting(None, "mirror images; none: as the data asks")

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"epochs {self.epochs}: has to be 0 or more")


@dataclass(frozen=True)
class NeedySettings:
    model: str = setting(help="name of the model")


class RaisingParser(Parser):
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise ValueError(message)


def load_settings(settings_class: type, words: list[str], config: Path | None = None) -> Any:
    """As a program reads them, the parser's errors raised."""
    parser = RaisingParser(add_help=False)
    add_flags(parser, settings_class)
    return settings_from(settings_class, given_flags(parser.parse_args(words)), config)


def write(folder: Path, text: str) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults():
    assert load_settings(TinySettings, []) == TinySettings()
    assert settings_from(TinySettings) == TinySettings()


def test_yaml_stands_over_the_default_and_the_flag_over_yaml(tmp_path):
    config = write(tmp_path, "epochs: 3\nlr: 0.1\n")
    settings = load_settings(TinySettings, ["--lr", "0.5"], config)
    assert (settings.epochs, settings.lr, settings.pool) == (3, 0.5, "avg")


def test_a_flag_that_repeats_the_default_still_beats_yaml(tmp_path):
    config = write(tmp_path, "epochs: 3\nbfloat16: true\nresume: a.pt\n")
    settings = load_settings(TinySettings, ["--epochs", "50", "--no-bfloat16", "--resume", "none"], config)
    assert (settings.epochs, settings.bfloat16, settings.resume) == (50, False, None)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("lr: 1e-3", "lr", 1e-3),
        ("lr: 1.5E+2", "lr", 150.0),
        ("lr: .5", "lr", 0.5),
        ("lr: 2", "lr", 2.0),
        ("lr: '1e-3'", "lr", 1e-3),
        ("time_budget_s: .inf", "time_budget_s", float("inf")),
        ("time_budget_s: null", "time_budget_s", None),
        ("time_budget_s: none", "time_budget_s", None),
        ("time_budget_s:", "time_budget_s", None),
        ("epochs: 010", "epochs", 10),
        ("epochs: 1_000", "epochs", 1000),
        ("bfloat16: true", "bfloat16", True),
        ("bfloat16: yes", "bfloat16", True),
        ("bfloat16: off", "bfloat16", False),
        ("flip: false", "flip", False),
        ("data: no", "data", "no"),
        ("data: 12:30", "data", "12:30"),
        ("data: 2024-01-01", "data", "2024-01-01"),
        ("out: some/where", "out", Path("some/where")),
        ("mean: [0.1, 2, 1e-3]", "mean", (0.1, 2.0, 1e-3)),
        ("mean: []", "mean", ()),
        ("operations:\n  - max_pool_3x3", "operations", ("max_pool_3x3",)),
        ("betas: [0.9, 0.99]", "betas", (0.9, 0.99)),
        ("order: 2", "order", 2),
    ],
)
def test_yaml_values_become_the_type_of_the_field(tmp_path, line, name, value):
    got = getattr(settings_from(TinySettings, {}, write(tmp_path, line)), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--lr", "1e-3"], "lr", 1e-3),
        (["--lr=-2"], "lr", -2.0),
        (["--mean", "0.1", "0.2"], "mean", (0.1, 0.2)),
        (["--mean", "0.1,0.2"], "mean", (0.1, 0.2)),
        (["--mean", "-0.1", "-1e-3"], "mean", (-0.1, -1e-3)),
        (["--mean"], "mean", ()),
        (["--operations", "a", "b,c"], "operations", ("a", "b", "c")),
        (["--betas", "0.9", "0.99"], "betas", (0.9, 0.99)),
        (["--time-budget-s", "none"], "time_budget_s", None),
        (["--bfloat16"], "bfloat16", True),
        (["--no-flip"], "flip", False),
        (["--order", "2"], "order", 2),
        (["--out", "~"], "out", Path.home()),
    ],
)
def test_flags_become_the_type_of_the_field(words, name, value):
    got = getattr(load_settings(TinySettings, words), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("epochs: 2.5", "epochs: 2.5 is not a whole number"),
        ("epochs: 600.0", "epochs: 600.0 is not a whole number"),
        ("epochs: true", "epochs: True is not a whole number"),
        ("epochs: many", "epochs: 'many' is not a whole number"),
        ("epochs:", "epochs: None is not a whole number"),
        ("lr: fast", "lr: 'fast' is not a number"),
        ("lr: .nan", "lr: nan is not a number"),
        ("lr: [1]", r"lr: \[1\] is not a number"),
        ("bfloat16: 2", "bfloat16: 2 is not true or false"),
        ("data: 10", "data: 10 is not a text; write it in quotes"),
        ("out: 3", "out: 3 is not a path"),
        ("mean: [a]", "mean: 'a' is not a number"),
        ("mean: {a: 1}", "mean: .* is not a list, each a number"),
        ("betas: [0.9]", r"betas: \[0.9\] is not a list of exactly a number, a number"),
        ("pool: maxx", "pool: 'maxx' is not one of 'avg', 'max'; nearest: max"),
        ("order: 3", "order: 3 is not one of 1, 2"),
        ("order: true", "order: True is not one of 1, 2"),
        ("time_budget_s: long", "time_budget_s: 'long' is not a number or none"),
    ],
)
def test_a_value_of_the_wrong_type_in_yaml_is_told_with_the_file(tmp_path, line, told):
    with pytest.raises(ValueError, match=rf"^config .*tiny\.yaml: {told}"):
        settings_from(TinySettings, {}, write(tmp_path, line))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epochs", "2.5"], "argument --epochs: '2.5' is not a whole number"),
        (["--mean", "0.1", "x"], "argument --mean: 'x' is not a number"),
        (["--pool", "min"], "argument --pool: 'min' is not one of 'avg', 'max'"),
        (["--epoch", "3"], "unknown --epoch; nearest: --epochs"),
        (["--epo=3"], "unknown --epo; nearest: --epochs"),
        (["--xyzzy", "3"], "unknown --xyzzy; nothing near it, see --help"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_wrong_flag_is_told(words, told):
    with pytest.raises(ValueError, match=told):
        load_settings(TinySettings, words)


def test_a_wrong_flag_ends_a_program_with_status_2_and_the_nearest_names(capsys):
    parser = Parser()
    add_flags(parser, TinySettings)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--time-budget", "3"])
    assert ended.value.code == 2
    assert "unknown --time-budget; nearest: --time-budget-s" in capsys.readouterr().err


def test_an_unknown_name_gives_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"tiny\.yaml: unknown setting 'epoch'; nearest: epochs"):
        settings_from(TinySettings, {}, write(tmp_path, "epoch: 3"))
    with pytest.raises(ValueError, match=r"unknown setting 'zzz'; known: data, epochs, lr"):
        settings_from(TinySettings, {}, write(tmp_path, "zzz: 3"))
    with pytest.raises(ValueError, match=r"flag --learning-rate: unknown setting 'learning_rate'"):
        settings_from(TinySettings, {"learning_rate": 3})


def test_what_the_class_refuses_is_told_with_where_it_was_written(tmp_path):
    config = write(tmp_path, "epochs: -1\nlr: 1")
    with pytest.raises(ValueError, match=r"^epochs -1: has to be 0 or more \(epochs = -1 from config .*tiny\.yaml\)$"):
        settings_from(TinySettings, {}, config)
    with pytest.raises(ValueError, match=r"\(epochs = -2 from flag --epochs\)$"):
        load_settings(TinySettings, ["--epochs", "-2"], config)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs: 1\nepochs: 2", r"line 2: 'epochs' stands there twice"),
        ("epochs: [1", r"line \d: "),
        ("- 1\n- 2", "has to be a list of `name: value` lines, not list"),
        ("just words", "not str"),
        ("1: 2", "has to be"),
        ("? [a, b]\n: 1", r"line 1: "),
        ("a: !!python/object/apply:os.system ['true']", "line 1: could not determine a constructor"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path, text, told):
    with pytest.raises(ValueError, match=rf"^config .*tiny\.yaml.*{told}"):
        read_config(write(tmp_path, text))


def test_a_missing_a_binary_and_an_empty_file(tmp_path):
    with pytest.raises(ValueError, match=r"config .*none\.yaml: cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        read_config(tmp_path / "binary.yaml")
    assert read_config(write(tmp_path, "# nothing yet\n")) == {}


def test_a_setting_without_default_is_needed():
    with pytest.raises(ValueError, match="setting 'model' is needed: give --model or `model:`"):
        load_settings(NeedySettings, [])
    assert load_settings(NeedySettings, ["--model", "edas_c10"]).model == "edas_c10"


def test_a_plain_argument_parser_serves_too():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    add_flags(parser, TinySettings)
    assert given_flags(parser.parse_args(["--lr", "1", "--config", "tiny.yaml"])) == {"lr": 1.0}


def test_help_shows_text_unit_default_and_choices():
    parser = Parser()
    add_flags(parser, TinySettings)
    text = " ".join(parser.format_help().split())
    assert "How the tiny program runs:" in text
    assert "--epochs INT passes over 100% of the training images (default: 50)" in text
    assert "--time-budget-s FLOAT stop after this long (in s, default: none)" in text
    assert "--bfloat16, --no-bfloat16 half-precision steps (default: no)" in text
    assert "--pool {avg,max} last pooling (default: avg)" in text
    assert "(default: skip_connect,sep_conv_3x3)" in text


def test_to_dict_is_json_and_comes_back():
    settings = load_settings(
        TinySettings, ["--mean", "0.1", "0.2", "--out", "a/b", "--time-budget-s", "inf", "--no-flip", "--order", "2"]
    )
    text = json.dumps(to_dict(settings), allow_nan=False)
    assert settings_from(TinySettings, json.loads(text)) == settings
    assert list(to_dict(settings)) == [field.name for field in dataclasses.fields(TinySettings)]


def test_describe_tells_value_unit_and_source(tmp_path):
    config = write(tmp_path, "time_budget_s: 60")
    settings = load_settings(TinySettings, ["--lr", "1e-3"], config)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in describe(settings).splitlines()}
    assert rows["lr"] == "0.001 flag --lr"
    assert rows["time_budget_s"] == f"60 s config {config}"
    assert rows["epochs"] == "50 default"
    assert rows["bfloat16"] == "no default"
    changed = dataclasses.replace(settings, epochs=4)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in describe(changed).splitlines()}
    assert (rows["epochs"], rows["pool"]) == ("4 program", "avg default")


def test_a_default_that_can_change_in_place_is_refused():
    with pytest.raises(TypeError, match="write a tuple"):
        setting([1, 2], "candidates")
