"""The command line: what it prints, and that a mistake is one line with exit code 2."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from nas_zoo.cli import main
from nas_zoo.genotype import count_cells, describe_cells, load_genotype
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.count import count

COMMANDS = [
    "list", "info", "search", "gap", "genotype", "report", "train", "adopt", "evaluate", "export", "check", "card",
    "publish", "page", "space", "bench", "predict", "draw", "demo", "doctor", "convert", "export-model",
    "paper", "latency", "auto", "timm", "completion",
]  # fmt: skip


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^    {command}\b(?!-)", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"nas-zoo {command}" in capsys.readouterr().out


def test_list_shows_models_and_cells(capsys):
    assert main(["list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert {"edas_c10", "edas_in1k", "cell_net_cifar", "cell_net_imagenet"} <= set(names)
    assert main(["list", "--cells", "--json"]) == 0
    cells = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert cells["darts_v2"]["edges"] == 16
    assert main(["list"]) == 0
    assert "edas_c10" in capsys.readouterr().out


def test_list_gives_csv_with_the_papers_figures_marked(capsys):
    assert main(["list", "--csv"]) == 0
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert len(rows) == len(MODELS)
    row = rows["darts_v2_in1k"]
    assert (row["cell"], row["layout"], row["init_channels"], row["num_cells"]) == ("darts_v2", "imagenet", "48", "14")
    assert (row["params"], row["macs"]) == ("4718752", "529911552")
    assert (row["paper_err"], row["paper_params_m"], row["paper_madds_m"]) == ("26.7", "4.7", "574")
    assert rows["darts_v2_c10"]["macs"] == "528359040"
    assert rows["darts_v2_c10"]["paper_madds_m"] == ""
    # whose figures they are, where it is not this network's
    assert rows["darts_v2_c10"]["paper_network"] == ""
    assert rows["darts_v2_c10_s"]["paper_network"] == "C=36, 20 cells"
    assert rows["relativenas_in1k"]["paper_network"] == ""  # C=46 is its paper's
    assert "817M multiply-adds" in rows["nsganet_c10"]["paper_network"]
    assert rows["edas_c10_s"]["paper_network"] == ""  # no paper's figure, nothing to say of it
    assert rows["relativenas_in1k"]["init_channels"] == "46"
    expected = json.loads((Path(__file__).parent / "expected" / "models.json").read_text())
    for name, row in rows.items():
        assert [int(row[key]) for key in ("params", "macs", "activations")] == [
            expected[name][key] for key in ("parameters", "macs", "activations")
        ]


@pytest.mark.parametrize("words", [[], ["--cells"], ["--pretrained"]])
def test_lists_fit_the_terminal_and_say_what_does_not(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "d*", *words]) == 0
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["list", "d*", *words]) == 0
    wide = capsys.readouterr().out
    names = {line.split()[0] for line in wide.splitlines() if line.startswith("d")}
    assert names == {line.split()[0] for line in narrow.splitlines() if line.startswith("d")}  # to be copied, so whole
    assert ("Too wide for 80 columns: " in narrow) == (words != ["--pretrained"])
    assert "Too wide" not in wide


@pytest.mark.slow
def test_list_takes_wildcards_as_timm_does(capsys):
    import timm

    assert main(["list", "edas*", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert set(names) == set(timm.list_models("edas*", module="nas_zoo"))
    assert main(["list", "edas*", "darts_v2_c10", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == {*names, "darts_v2_c10"}
    assert main(["list", "edas*", "--pretrained", "--json"]) == 0
    tagged = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert set(tagged) == set(timm.list_pretrained("edas*"))
    assert main(["list", "darts_v2_*.darmo", "--pretrained"]) == 0
    assert "not had by name" not in capsys.readouterr().out
    assert main(["list", "darts_v?", "--cells", "--csv"]) == 0
    assert [row["name"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["darts_v1", "darts_v2"]


def test_names_of_models_stand_for_cells_and_the_reverse(capsys, tmp_path):
    assert main(["export-model", "darts_v2_in1k", "--to", "darts", "--name", "a"]) == 0
    of_model = capsys.readouterr()
    assert of_model.err == "nas-zoo export-model: 'darts_v2_in1k' is a model; meant are its cells, 'darts_v2'\n"
    assert main(["export-model", "darts_v2", "--to", "darts", "--name", "a"]) == 0
    assert capsys.readouterr() == (of_model.out, "")
    assert main(["draw", "da2s_in1k.imagenette_e20_r128", str(tmp_path / "a.svg")]) == 0
    assert f"meant are its cells, {MODELS['da2s_in1k']['cell']!r}" in capsys.readouterr().err
    assert main(["draw", "edas_c10", str(tmp_path / "b.svg")]) == 0  # both names mean the same cells
    assert capsys.readouterr().err == ""
    assert main(["info", "pc_darts_c10", "--genotype", "darts_v2_in1k", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["genotype"] == load_genotype("darts_v2").digest
    assert main(["info", "darts_v2", "--json"]) == 0
    facts, told = capsys.readouterr()
    assert json.loads(facts)["params"] == 3_349_342
    assert "'darts_v2' is the name of cells; meant is cell_net_cifar" in told
    assert "models that have them: darts_v2_c10, darts_v2_" in told


def test_a_name_that_is_both_means_the_same_cells():
    from nas_zoo.genotype import list_genotypes
    from nas_zoo.models.catalog import cells_named

    for gone in ("edas_c10.json", "darts_v2_c10_s.jpg_e4", "darts_v2_c10.py:CELLS"):  # these gave a model's cells
        with pytest.raises(ValueError, match=re.escape(gone)):
            cells_named(gone)
    both = sorted(set(list_genotypes()) & set(MODELS))
    assert "edas_c10" in both
    assert [load_genotype(MODELS[name]["cell"]) for name in both] == [cells_named(name) for name in both]


def test_list_shows_cells_that_cannot_be_built_and_why(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # so that no column is left out
    assert main(["list", "--cells", "--csv"]) == 0
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    counts = count_cells()
    assert len(rows) == counts["records"] == counts["published"] + 6
    assert sum(row["builds"] == "True" for row in rows.values()) == counts["genotypes"]
    assert rows["edas_c10"]["paper"] == rows["edas_c10"]["tier"] == ""
    assert rows["edas_c10"]["found_here"] == "search/results/edas_c8_c10"
    assert rows["setn"]["cannot_build"].endswith("conv_3x1_1x3")
    assert rows["darts_v2"]["paper_c10_err"] == "2.76"
    assert "3.169M" in rows["darts_v1"]["conflicts"]
    assert main(["list", "--cells", "--tier", "1"]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 1 + sum(row["tier"] == "1" for row in rows.values())
    assert "(the source gives no reduction cell" in text
    assert "edas_c10" not in text
    assert main(["list", "--cells"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^edas_c10 .* EDAS +found here: search/results/edas_c8_c10$", shown, re.MULTILINE)
    assert shown.endswith(f"\n{describe_cells()}\n")
    assert main(["list", "--tier", "1"]) == 2


@pytest.mark.slow
def test_info_shows_stages_that_add_up_and_the_papers_figures(capsys):
    assert main(["info", "pc_darts_in1k", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    for key in ("params", "macs", "activations"):
        assert sum(stage[key] for stage in facts["stages"]) == facts[key]
    assert [stage["name"] for stage in facts["stages"]] == [
        "stem", "cells 0 to 3", "cells 4 to 8", "cells 9 to 13", "classifier"]  # fmt: skip
    assert facts["stages"][2]["output_size"] == [384, 14, 14]
    assert facts["paper_err"] == 24.2
    assert main(["info", "pc_darts_in1k"]) == 0
    text = capsys.readouterr().out
    assert "paper_madds_m" in text
    assert "cells 4 to 8   384x14x14  900,384" in text
    # Of other cells the paper says nothing.
    assert main(["info", "pc_darts_in1k", "--genotype", "darts_v2", "--json"]) == 0
    assert "paper_err" not in json.loads(capsys.readouterr().out)


def test_info_counts_as_is_known_of_darts_v2(capsys):
    assert main(["info", "cell_net_cifar", "--genotype", "darts_v2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["params"] == 3_349_342
    assert round(facts["macs"] / 1e6, 2) == 528.36
    assert facts["features"] == [
        {"channels": 144, "reduction": 1},
        {"channels": 288, "reduction": 2},
        {"channels": 576, "reduction": 4},
    ]


def test_multiply_adds_are_those_worked_out_by_hand():
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 8 x 4 x 4 outputs of 27 each = 3456
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),  # 8 x 2 x 2 of 9 = 288
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),  # 80
    )
    counts = count(network, (3, 4, 4))
    assert counts.macs == 3456 + 288 + 80
    assert counts.activations == 128 + 32 + 10
    assert counts.params == sum(p.numel() for p in network.parameters())
    assert count(network.to(torch.device("meta")), (3, 4, 4)) == counts


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["info", "edas_c11"], ["nas-zoo info:", "edas_c11", "did you mean edas_c10"]),
        (["info", "edas_c10", "--genotype", "nonesuch"], ["nonesuch"]),
        (["info", "edas_e8_c10_s.jpg_e4"], ["did you mean edas_e8_c10_s.jpeg_e4"]),
        (["search", "--method", "edsa"], ["'edsa'", "did you mean edas"]),
        (["search", "--config", "edas_c1"], ["'edas_c1'", "did you mean edas_c10"]),
        (["paper", "edas-tabel-1"], ["did you mean edas-table-1"]),
        (["export-model", "darts_v2", "--to", "josn"], ["did you mean json"]),
        (["list", "edsa*"], ["'edsa*'", "did you mean edas*"]),
        (["list", "edas*", "darst_v2_c10"], ["'darst_v2_c10'", "did you mean darts_v2_c10"]),
        (["list", "darst_v2", "--cells"], ["did you mean darts_v2"]),
        (["draw", "darst_v2"], ["near: darts_v2"]),
        (["draw", "darts_v2_c1"], ["near: darts_v2_c10,"]),  # a model, whose cells are meant
        (["latency", "darts_v2_c1"], ["near: darts_v2_c10,"]),
        (["latency", "darts_v2_c10.foo"], ["tag (foo)"]),
        (["info", "darst_v2"], ["did you mean darts_v2"]),  # cells, of which a network is made
        (["bench", "darst_v2"], ["did you mean darts_v2"]),
        (["evaluate", "edas_e8_c10_s.jpg_e4", "--data", "digits"], ["did you mean edas_e8_c10_s.jpeg_e4"]),
        (["bench", "edas_e8_c10_s.jpg_e4"], ["did you mean edas_e8_c10_s.jpeg_e4"]),
        (["bench", "edas_c99"], ["edas_c99", "did you mean"]),
        (["export", "darts_v2"], ["is the name of cells", "darts_v2_c10", "without weights"]),
        (["convert", "a.pt", "b.safetensors", "--model", "darts_v2_c1"], ["did you mean darts_v2_c10"]),
        (["convert", "a.pt", "b.safetensors", "--model", "darts_v2_in1k.drmo"], ["did you mean darts_v2_in1k.darmo"]),
        (["predict", "no/such.onnx", "image.png"], ["is no file", "such.onnx"]),
        (["evaluate", "edas_c10", "--data", "digits"], ["edas_c10", "without weights"]),
        (["evaluate", "no/such/folder"], ["no such folder"]),
        (["export", "edas_c99"], ["edas_c99"]),
        (["draw", "darts_v2", "cells.xyz"], ["cells.xyz", ".svg"]),
        (["train", "--model", "no_such_model", "--out", "nowhere"], ["no_such_model"]),
        (["search", "--data", "no/such/tar"], ["no/such/tar"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["info", "edas_c10", "--input-size", "0"], "--input-size must be a whole number of at least 1, got 0"),
        (["info", "edas_c10", "--input-size", "1e3"], "--input-size must be a whole number, got '1e3'"),
        (["info", "edas_c10", "--num-classes", "-5"], "--num-classes must be a whole number of at least 1, got -5"),
        (["info", "edas_c10", "--num-cells", "0"], "--num-cells must be a whole number of at least 1, got 0"),
        (["info", "edas_c10", "--init-channels", "1"], "--init-channels must be a whole number of at least 2, got 1"),
        (
            ["info", "edas_c10", "--num-classes", "9" * 5000],
            "--num-classes must be at most 9223372036854775807, got '999",
        ),
        (["predict", "m.onnx", "a.png", "--top-k", "0"], "--top-k must be a whole number of at least 1, got 0"),
        (
            ["predict", "m.onnx", "a.png", "--batch-size", "-1"],
            "--batch-size must be a whole number of at least 1, got",
        ),
        (["predict", "m.onnx", "a.png", "--device-id", "-1"], "--device-id must be a whole number of at least 0, got"),
        (["export-model", "darts_v2", "--to", "timm-module", "--num-classes", "0"], "--num-classes must be a whole"),
        (["demo", "--seed", "-1"], "--seed must be a whole number of at least 0, got -1"),
        (["gap", "runs/a", "--batches", "-1"], "--batches must be a whole number of at least 0, got -1"),
        (["publish", "edas_c10_s", "--repo", "a/b", "--check-images", "0"], "--check-images must be a whole number"),
        (["export", "edas_c10", "--num-classes", "-5"], "num_classes must be at least 1, got -5"),
        (["export", "edas_c10", "--input-size", "0"], "input_size must be at least 1, got 0"),
        (["export", "edas_c10", "--agreement", "1.5"], "agreement must be from 0 to 1, got 1.5"),
        (["check", "m.onnx", "edas_c10", "--batches", "0"], "batches must be at least 1, got (0,)"),
        (["check", "m.onnx", "edas_c10", "--in-chans", "-1"], "in_chans must be at least 1, got -1"),
        (["check", "m.onnx", "edas_c10", "--atol", "inf"], "atol must be a finite number of at least 0, got inf"),
        (["bench", "edas_c10", "--batch", "-1"], "batch must be at least 1, got (-1,)"),
        (["bench", "edas_c10", "--num-cells", "0"], "num_cells must be at least 1, got 0"),
        (["evaluate", "edas_c10", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["train", "--num-cells", "0"], "num_cells must be at least 1, got 0"),
        (["search", "--image-size", "0"], "image_size must be at least 8 pixels, got 0"),
    ],
)
def test_a_number_that_cannot_be_is_one_sentence_in_every_command(argv, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code: str | int | None = main(argv)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["list", "--pretraind"], "nas-zoo list: there is no flag --pretraind; did you mean --pretrained?"),
        (["doctor", "--model"], "nas-zoo doctor: there is no flag --model; did you mean --models or --help?"),
        (["demo", "--owerwrite"], "nas-zoo demo: there is no flag --owerwrite; did you mean --overwrite?"),
        (["list", "--tier", "9"], "nas-zoo list: there is no tier '9'; it must be one of 1, 2"),
        (["search", "--operations", "skip_conect"], "got 'skip_conect'; did you mean skip_connect?"),
        (["timm", "trian.py"], "there is no script 'trian.py'; did you mean train.py?"),
        (
            ["gap", "edas_c10"],
            "there is no such folder, but 'edas_c10' is the name of a model; `nas-zoo info edas_c10`",
        ),
        (
            ["genotype", "darts_v2"],
            "there is no such folder, but 'darts_v2' is the name of cells; `nas-zoo info darts_v2`",
        ),
        (["genotype", "runs/no"], "runs/no: there is no such folder; the folder of a search is needed"),
        (["info", "."], "unknown model '.': a name is meant, and this is a path; cells in it are given as"),
        (["timm", "train.py"], "there is no script 'train.py'; timm's are in its repository alone"),
    ],
)
def test_what_is_mistyped_or_another_kind_of_name_is_told_with_what_is_meant(argv, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code: str | int | None = main(argv)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_an_unknown_command_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fly"])
    assert exit_.value.code == 2
    assert "there is no COMMAND 'fly'; it must be one of search, gap," in capsys.readouterr().err
    for words, told in (
        (["trian"], "there is no COMMAND 'trian'; did you mean train?"),
        (["genotype", "a", "--rule", "agrmax"], "there is no rule 'agrmax'; did you mean argmax?"),
        (["completion", "bsh"], "there is no shell 'bsh'; did you mean bash or zsh?"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert told in capsys.readouterr().err


def test_draw_writes_both_formats(tmp_path, capsys):
    files = [str(tmp_path / "cells.svg"), str(tmp_path / "cells.png")]
    assert main(["draw", "darts_v2", *files]) == 0
    with Image.open(files[1]) as picture:
        assert picture.size[0] > 300
    assert "sep_conv_3x3" in Path(files[0]).read_text()


def test_doctor_finds_this_machine_in_order(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert findings["onnx export"]["state"] == "ok"
    assert findings["models"]["state"] == "ok"
    assert all(row["state"] != "wrong" for row in findings.values())
