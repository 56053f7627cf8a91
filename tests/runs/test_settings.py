import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    describe,
    given_flags,
    read_config,
    require,
    resumed_settings,
    setting,
    settings_from,
    source_of,
    to_dict,
    whole,
)
from nas_zoo.train.recipes import TrainSettings, settings_of


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
        require(self.epochs >= 0, "epochs", self.epochs, "at least 0")


@dataclass(frozen=True)
class NeedySettings:
    model: str = setting(help="name of the model")


def from_words(settings_class, words: list[str], config: Path | None = None):
    """As a program reads them; a wrong flag ends it with status 2."""
    parser = Parser(prog="tiny")
    add_flags(parser, settings_class)
    return settings_from(settings_class, given_flags(parser.parse_args(words)), config)


def write(folder: Path, text: str) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults():
    assert from_words(TinySettings, []) == TinySettings()
    assert settings_from(TinySettings) == TinySettings()


def test_yaml_stands_over_the_default_and_the_flag_over_yaml(tmp_path):
    config = write(tmp_path, "epochs: 3\nlr: 0.1\n")
    settings = from_words(TinySettings, ["--lr", "0.5"], config)
    assert (settings.epochs, settings.lr, settings.pool) == (3, 0.5, "avg")


def test_a_flag_that_repeats_the_default_still_beats_yaml(tmp_path):
    config = write(tmp_path, "epochs: 3\nbfloat16: true\nresume: a.pt\n")
    settings = from_words(TinySettings, ["--epochs", "50", "--no-bfloat16", "--resume", "none"], config)
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
    got = getattr(from_words(TinySettings, words), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("epochs: 2.5", "epochs must be a whole number, got 2.5"),
        ("epochs: 600.0", "epochs must be a whole number, got 600.0"),
        ("epochs: true", "epochs must be a whole number, got True"),
        ("epochs: many", "epochs must be a whole number, got 'many'"),
        ("epochs:", "epochs must be a whole number, got None"),
        ("epochs: 9223372036854775808", "epochs must be at most 9223372036854775807, got 9223372036854775808"),
        ("epochs: -9" + 30 * "0", "epochs must be at least -9223372036854775808, got -9" + 30 * "0"),
        ("lr: fast", "lr must be a number, got 'fast'"),
        ("lr: .nan", "lr must be a number, got nan"),
        ("lr: [1]", "lr must be a number, got [1]"),
        ("lr: 1" + 400 * "0", "lr must be a number, got 1" + 79 * "0" + "..."),
        ("bfloat16: 2", "bfloat16 must be true or false, got 2"),
        ("data: 10", "data must be a text, got 10; write it in quotes"),
        ("out: 3", "out must be a path, got 3"),
        (
            "out: ~nobody-of-this-name/x",
            "out must be a path without '~', whose folder is not known here, got '~nobody-of-this-name/x'",
        ),
        ("mean: [1, a]", "mean must be a list in which each value is a number, got 'a' in it"),
        ("mean: {a: 1}", "mean must be a list in which each value is a number, got {'a': 1}"),
        ("betas: [0.9]", "betas must be a list of 2 values (a number, a number), got [0.9]"),
        ("pool: maxx", "pool must be one of 'avg', 'max', got 'maxx'; did you mean max?"),
        ("order: 3", "order must be one of 1, 2, got 3"),
        ("order: true", "order must be one of 1, 2, got True"),
        ("time_budget_s: long", "time_budget_s must be a number or none, got 'long'"),
    ],
)
def test_a_value_of_the_wrong_type_in_yaml_is_told_with_file_and_line(tmp_path, line, told):
    config = write(tmp_path, f"# the settings of a test\n{line}")
    with pytest.raises(ValueError, match="must be") as caught:
        settings_from(TinySettings, {}, config)
    assert str(caught.value) == f"config {config}, line 2: {told}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epochs", "2.5"], "--epochs must be a whole number, got '2.5'"),
        (["--epochs", 5000 * "9"], "--epochs must be at most 9223372036854775807, got '99999"),
        (["--mean", "0.1", "x"], "--mean must be a list in which each value is a number, got 'x' in it"),
        (["--pool", "min"], "--pool must be one of 'avg', 'max', got 'min'"),
        (["--epoch", "3"], "there is no flag --epoch; did you mean --epochs or"),
        (["--epo=3"], "there is no flag --epo; did you mean --epochs"),
        (["--time-budget", "3"], "there is no flag --time-budget; did you mean --time-budget-s?"),
        (["--xyzzy", "3"], "there is no flag --xyzzy; --help lists them all"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_wrong_flag_ends_a_program_with_status_2_and_a_sentence(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        from_words(TinySettings, words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tiny: {told}")


def test_an_unknown_name_gives_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"tiny\.yaml, line 1: there is no setting 'epoch'; did you mean epochs\?$"):
        settings_from(TinySettings, {}, write(tmp_path, "epoch: 3"))
    with pytest.raises(ValueError, match=r"there is no setting 'zzz'; the settings are data, epochs, lr"):
        settings_from(TinySettings, {}, write(tmp_path, "zzz: 3"))
    with pytest.raises(ValueError, match=r"flag --learning-rate: there is no setting 'learning_rate'"):
        settings_from(TinySettings, {"learning_rate": 3})


def test_what_the_class_refuses_is_told_with_where_it_was_written(tmp_path):
    config = write(tmp_path, "epochs: -1\nlr: 1")
    told = r"^epochs must be at least 0, got -1 \(epochs = -1 from config .*tiny\.yaml, line 1\)$"
    with pytest.raises(ValueError, match=told):
        settings_from(TinySettings, {}, config)
    with pytest.raises(ValueError, match=r"\(epochs = -2 from flag --epochs\)$"):
        from_words(TinySettings, ["--epochs", "-2"], config)


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("epochs: 1\nlr: 2\nepochs: 2", 3, "'epochs' stands on line 1 already"),
        ("epochs: 1\nepochs: [1", 2, "expected ',' or ']'"),
        ("# two\n- 1\n- 2", 2, "must hold lines of `name: value`"),
        ("just words", 1, "must hold lines of `name: value`"),
        ("1: 2", 1, "must begin with the name of a setting"),
        ("epochs: 1\n? [a, b]\n: 1", 2, "must begin with the name of a setting"),
        ("epochs: 1\n? {a: 1}\n: 1", 2, "must begin with the name of a setting"),
        ("a: !!python/object/apply:os.system ['true']", 1, "tags (here 'tag:yaml.org,2002:python/object/apply"),
        ('lr: 1\nepochs: !!bool "x"', 2, "tags (here 'tag:yaml.org,2002:bool') are not read"),
        ("epochs: !!int x", 1, "tags"),
        ("epochs: !own 3", 1, "tags (here '!own')"),
        ("epochs: ! 3", 1, "tags (here '!')"),
        ("lr: 1\nmean: &x [*x]", 2, "anchors (&name) and aliases (*name) are not read"),
        ("lr: 1\nmean: *x", 2, "anchors"),
        (BOMB, 1, "anchors"),
        ("lr: " + 2000 * "[" + 2000 * "]", 1, "lists must not lie deeper than 8"),
        ("lr: " + 300 * "{a: " + "1" + 300 * "}", 1, "lists must not lie deeper than 8"),
        ("lr: 1\nepochs: " + 5000 * "9", 2, "'epochs' has a number of too many digits"),
        ("lr: 1\ndata: a\x07b", 2, "YAML allows no U+0007"),
        ("lr: 1\n---\nlr: 2", 2, "but found another document"),
        ("%YAML 1.1\n---\ndata: no", 2, "is YAML 1.2 and must not ask for another version"),
        ("%YAML 9.9\n---\ndata: no", 1, "version"),
        ("lr: 1\nlr: b: c", 2, "mapping values are not allowed here"),
        ("data: 'abc", 1, "found unexpected end of stream"),
        ("<<: {a: 1}", 1, "must begin with the name of a setting"),
    ],
)
def test_a_bad_file_is_told_in_one_line_with_its_line(tmp_path, text, line, told):
    config = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"^config ") as caught:
        settings_from(TinySettings, {}, config)
    message = str(caught.value)
    assert message.startswith(f"config {config}, line {line}: ")
    assert told in message
    assert message.isprintable()
    assert len(message) < 300


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"config .*none\.yaml cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=rf"config {tmp_path} must be a file"):
        read_config(tmp_path)
    os.mkfifo(tmp_path / "fifo.yaml")
    with pytest.raises(ValueError, match=r"config .*fifo\.yaml must be a file"):
        read_config(tmp_path / "fifo.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.yaml must be UTF-8 text"):
        read_config(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ValueError, match=r"large\.yaml must be a file of settings, which has at most 1,000,000 bytes"):
        read_config(tmp_path / "large.yaml")


def test_an_empty_file_holds_nothing_and_json_is_yaml(tmp_path):
    for text in ("", "# nothing yet\n", "---\n...\n"):
        assert read_config(write(tmp_path, text)) == {}
    text = '\N{ZERO WIDTH NO-BREAK SPACE}{"lr": 1e-3, "mean": [0.5, 1], "data": "no", "resume": null, "x": 010}'
    assert read_config(write(tmp_path, text)) == {"lr": 0.001, "mean": [0.5, 1], "data": "no", "resume": None, "x": 10}


def test_what_a_run_that_goes_on_is_given_has_to_fit_its_settings_and_not_the_defaults():
    begun = settings_of({"recipe": "finetune", "pretrained": True, "layer_decay": 0.75})
    again = resumed_settings(TrainSettings, to_dict(begun), {"layer_decay": "0.75", "time_budget": 60.0})
    assert again == dataclasses.replace(begun, time_budget=60.0)  # aux_weight is 0 there, and 0.4 by default
    assert (source_of(again, "aux_weight"), source_of(again, "layer_decay")) == ("the run", "flag --layer-decay")
    begun = settings_of({"recipe": "quick", "min_lr": 0.05})  # lr is 0.1 there, and 0.025 by default
    assert resumed_settings(TrainSettings, to_dict(begun), {"min_lr": 0.05}) == begun
    with pytest.raises(ValueError, match=r"lr must stay 0\.1 as in the run that is resumed, got 0\.2"):
        resumed_settings(TrainSettings, to_dict(begun), {"lr": 0.2})


def test_a_setting_without_default_is_needed():
    with pytest.raises(ValueError, match=r"^model is needed: give --model or write `model:` in the config file"):
        from_words(NeedySettings, [])
    assert from_words(NeedySettings, ["--model", "edas_c10"]).model == "edas_c10"


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
    settings = from_words(
        TinySettings, ["--mean", "0.1", "0.2", "--out", "a/b", "--time-budget-s", "inf", "--no-flip", "--order", "2"]
    )
    text = json.dumps(to_dict(settings), allow_nan=False)
    assert settings_from(TinySettings, json.loads(text)) == settings
    assert list(to_dict(settings)) == [field.name for field in dataclasses.fields(TinySettings)]


def test_describe_tells_value_unit_and_source(tmp_path):
    config = write(tmp_path, "time_budget_s: 60")
    settings = from_words(TinySettings, ["--lr", "1e-3"], config)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in describe(settings).splitlines()}
    assert rows["lr"] == "0.001 flag --lr"
    assert rows["time_budget_s"] == f"60 s config {config}, line 1"
    assert rows["epochs"] == "50 default"
    assert rows["bfloat16"] == "no default"
    changed = dataclasses.replace(settings, epochs=4)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in describe(changed).splitlines()}
    assert (rows["epochs"], rows["pool"]) == ("4 program", "avg default")


def test_a_default_that_can_change_in_place_is_refused():
    with pytest.raises(TypeError, match="write a tuple"):
        setting([1, 2], "candidates")


@dataclass(frozen=True)
class WholeSettings:
    batch_size: int = setting(1, "images a step")
    workers: int | None = setting(None, "processes that load data")
    sizes: tuple[int, ...] = setting((1,), "of the batches")


@pytest.mark.parametrize("digits", [20, 21, 40, 5000])
@pytest.mark.parametrize("name", ["batch_size", "workers", "sizes"])
def test_a_huge_whole_number_is_one_and_is_told_the_most(name, digits, tmp_path, capsys):
    number = digits * "9"
    told = f"must be at most 9223372036854775807, got '{number[:20]}"
    with pytest.raises(ValueError, match=f"{name} {told}"):
        from_words(WholeSettings, [], write(tmp_path, f"{name}: '{number}'"))
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(SystemExit):
        from_words(WholeSettings, [flag, number])
    assert capsys.readouterr().err.startswith(f"tiny: {flag} {told}")
    parser = Parser(prog="tiny")
    parser.add_argument("--side", type=whole(1))
    with pytest.raises(SystemExit):
        parser.parse_args(["--side", number])
    assert capsys.readouterr().err.startswith(f"tiny: --side {told}")
