"""The table of weights that others publish: whole, checked, and of models and cells that are there."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from nas_zoo.cli import main
from nas_zoo.genotype import load_genotype
from nas_zoo.models import public
from nas_zoo.models.catalog import DATA, MODELS
from nas_zoo.models.public import PublicWeights, find_public, public_of, public_weights, read_public
from tests.original_darts import original
from tests.present import present

ROWS = public_weights()
BY_NAME = [row for row in ROWS if not row.not_by_name]


@pytest.mark.parametrize("row", BY_NAME, ids=lambda row: row.name)
def test_a_row_fits_its_model(row: PublicWeights):
    model = MODELS[row.model]
    data = DATA[model["data"]]
    assert find_public(row.name) is row
    assert row in public_of(row.model)
    assert len(data.mean) == len(row.mean)
    assert (row.input_size[1] == 224) == (data.layout == "imagenet")
    # Checked by the git blob, by a hash, or, of a Drive or release link, by the shapes and the hash at first use.
    assert row.git_blob or row.md5 or row.sha256 or "google.com" in row.link or "/releases/" in row.link
    if row.link.startswith("https://raw."):
        assert row.link == f"https://raw.githubusercontent.com/{row.repository}/{row.commit}/{row.path}"
        assert len(row.commit) == 40
        assert row.git_blob


@pytest.mark.parametrize("row", [row for row in BY_NAME if row.edges], ids=lambda row: row.name)
def test_edges_that_are_numbered_apart_are_as_many_as_the_cells(row):
    genotype = load_genotype(MODELS[row.model]["cell"])
    assert row.numbering is not None
    for numbers, cell in zip(row.numbering, genotype, strict=True):
        assert len(numbers) == sum(len(node) for node in cell.nodes)
        assert list(numbers) == sorted(set(numbers))


def test_the_whole_list_is_there():
    """36 files under plain links with their git blob ids in the names of DARTS, and others; figures are of the file."""
    assert len(ROWS) == 79
    plain = [row for row in BY_NAME if row.git_blob and row.keys == "darts" and len(row.mean) == 3]
    assert len(plain) == 36
    assert len({row.git_blob for row in BY_NAME if row.git_blob}) == sum(bool(row.git_blob) for row in BY_NAME)
    assert len({row.file_name for row in BY_NAME}) == len(BY_NAME)
    for name, err, of in (
        ("relativenas_c10.emi", 2.26, "not said"),
        ("eenas_r_in1k.eenas", 23.98, "best epoch"),
        ("random_nsas_c_c100.nsas", 16.88, "last epoch"),  # the file's, not the README's 16.69 of the best epoch
        ("p_darts_in1k.darmo", 24.06, "not said"),
    ):
        row = find_public(name)
        assert row is not None
        assert (row.reported_err, row.reported_of) == (err, of)


def test_licences_are_said_and_decide_what_may_be_passed_on():
    rows = {
        name: present(find_public(name)) for name in ("relativenas_c10.emi", "p_darts_c10.pdarts", "xnas_c10.small")
    }
    assert rows["relativenas_c10.emi"].license == "no licence stated"
    assert "non-commercial" in rows["p_darts_c10.pdarts"].license
    assert [row.may_be_passed_on for row in rows.values()] == [False, False, True]
    assert not present(find_public("p_darts_in1k.darmo")).may_be_passed_on  # where it comes from is not stated


def test_no_figure_of_others_is_in_a_configuration():
    for row in BY_NAME:
        text = str(row.cfg())
        assert row.reported_err is None or f"{row.reported_err}" not in text


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("tag", "Emi", "tag must be lower-case words"),
        ("git_blob", "3397", "git_blob must be 40 hex digits"),
        ("reported_err", "226", "reported_err must be a percentage"),
        ("reported_err", "two", "reported_err must be made of numbers"),
        ("reported_of", "", "reported_of must be one of best epoch"),
        ("license", "", "license must say 'no licence stated'"),
        ("keys", "vega", "keys must be one of darts, fairdarts"),
        ("mean", "0.5", "mean must be 3 numbers"),
        ("link", "ftp://host/file", "link must begin with https://"),
    ],
)
def test_a_damaged_table_is_told_by_line_and_column(tmp_path, column, value, words):
    text = Path(public.__file__).with_name("public.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    rows[0][column] = value
    file = tmp_path / "public.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=f"line 2: {words}"):
        read_public(file)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    text = Path(public.__file__).with_name("public.csv").read_text()
    head, first, *_ = text.splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([head, first, first]) + "\n")
    with pytest.raises(ValueError, match=r"relativenas_c10\.emi stands there twice"):
        read_public(tmp_path / "twice.csv")
    (tmp_path / "other.csv").write_text("model,tag\n")
    with pytest.raises(ValueError, match="the columns must be model,tag,repository"):
        read_public(tmp_path / "other.csv")


def test_a_row_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROWS[0].tag = "mine"  # type: ignore[misc]


# ----------------------------------------------------------------------------------------------------- as people see it


def test_the_list_of_trained_weights_fits_80_columns_and_keeps_figures_apart(capsys):
    assert main(["list", "--pretrained"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["name", "reported", "ours", "licence", "by"]
    rows = {line.split()[0]: line for line in lines[1 : lines.index("")]}
    assert set(rows) >= {row.name for row in BY_NAME} | {"darts_v2_c10_s.jpeg_e4"}
    at = lines[0].index("ours")
    assert rows["eenas_r_in1k.eenas"].split()[1:] == ["23.98", "best", "none", "stated", "miaozhang0525"]
    assert rows["eenas_r_in1k.eenas"][at : at + 5].strip() == ""  # nobody measured it here
    assert rows["darts_v2_c10_s.jpeg_e4"][at:].split() == ["18.55", "apache-2.0", "nas-zoo"]
    assert "27 more files are known and not had by name" in "\n".join(lines)


def test_the_whole_table_of_trained_weights_has_sources_reasons_and_one_owner_a_figure(capsys):
    assert main(["list", "--pretrained", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(ROWS) + 6
    for row in rows:
        assert not (row["err"] and row["reported_err"])
        assert bool(row["reported_err"]) == bool(row["reported_source"]) == bool(row["reported_of"])
        assert row["license"]
    gone = [row for row in rows if row["not_by_name"].startswith("reported missing")]
    assert [row["name"] for row in gone] == ["darts_v2_c10", "darts_v2_in1k"]
    assert main(["list", "--pretrained", "--cells"]) == 2


@pytest.mark.slow
def test_info_tells_whose_weights_they_are_and_what_is_reported_of_them(capsys):
    assert main(["info", "random_nsas_c_c100.nsas", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["reported_err"], facts["reported_of"], facts["license"]) == (
        16.88, "last epoch", "no licence stated")  # fmt: skip
    assert facts["weights_by"] == "miaozhang0525"
    assert "the README's 16.69 % is the best epoch's" in facts["cautions"]
    assert main(["info", "random_nsas_c_c100"]) == 0
    assert "no (by miaozhang0525: random_nsas_c_c100.nsas)" in capsys.readouterr().out


@pytest.mark.slow
def test_info_shows_our_figure_and_says_of_which_network_the_papers_is(capsys):
    def facts_of(*words: str) -> dict[str, object]:
        assert main(["info", *words, "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    ours = facts_of("darts_v2_c10_s")
    assert (ours["top1"], ours["top1_dataset"], ours["top1_images"]) == (81.45, "CIFAR-10 (JPEG)", 10_000)
    assert (ours["paper_err"], ours["paper_network"]) == (2.76, "C=36, 20 cells")
    assert facts_of("edas_e8_in1k.imagenette_e20_r128")["top1"] == pytest.approx(77.27, abs=0.01)
    assert "top1" not in facts_of("darts_v2_c10_s", "--init-channels", "8")  # another network
    assert "top1" not in facts_of("xnas_l_c10.xnas")  # reported, and not by us
    assert facts_of("xnas_l_c10.xnas")["paper_network"] == "C=36, 20 cells"
    assert facts_of("xnas_in1k")["paper_network"] == "C=46, stem of 56, squeeze-and-excitation in cells 0-9"
    assert facts_of("relativenas_in1k")["paper_network"] is None  # 46 channels are its paper's own
    assert facts_of("darts_v2_c10", "--init-channels", "8")["paper_network"] == "C=36, 20 cells"


@pytest.mark.slow
def test_a_file_got_by_hand_is_converted_by_the_name_of_its_row(tmp_path, capsys):
    """ENNAS at its full size, with the edges of 'none' that its repository counts."""
    theirs = original(load_genotype("ennas"), "cifar", 36, 20)
    numbers = present(present(find_public("ennas_c10.ennas_e600")).numbering)
    state = {}
    for key, value in theirs.state_dict().items():
        if match := re.fullmatch(r"cells\.(\d+)\._ops\.(\d+)\.(.+)", key):
            number = numbers[int(match[1]) in (6, 13)][int(match[2])]
            key = f"cells.{match[1]}._ops.{number}.{match[3]}"
        state[key] = value
    torch.save(state, tmp_path / "theirs.pt")
    out = str(tmp_path / "ours.safetensors")
    words = ["convert", str(tmp_path / "theirs.pt"), out]
    assert main([*words, "--model", "ennas_c10.ennas_e600"]) == 0
    assert "3,083,014 parameters; left out: 14 tensors of the auxiliary head" in capsys.readouterr().out
    ours = timm.create_model("ennas_c10")
    ours.load_state_dict(load_file(out))
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=0, atol=1e-5)
    for wrong, said in (
        (["--model", "eenas_c10.eenas"], "does not fit"),
        (["--model", "eenas_c10.mine"], "no weights of others are called 'eenas_c10.mine'"),
        (["--model", "eenas_c11"], "unknown model 'eenas_c11'"),
        ([], "--genotype or --model must be given"),
        (["--model", "ennas_c10", "--genotype", "ennas"], "and not both"),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
