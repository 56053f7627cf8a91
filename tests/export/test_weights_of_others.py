"""A card or a publication of other people's weights: it names them and their licence, and is refused without one."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import nas_zoo  # noqa: F401  # registers
from nas_zoo.export.publish.card import main as card
from nas_zoo.export.publish.hub import main as publish_on_hub
from nas_zoo.export.publish.hub import stage
from nas_zoo.export.publish.page import page_words
from nas_zoo.export.publish.published import open_checkpoint
from nas_zoo.models.public import OPEN_LICENSES, find_public, public_weights
from nas_zoo.models.results import file_sha256
from tests.present import present
from tests.served_weights import theirs_of


def test_an_open_licence_lets_a_card_and_a_repository_be_made(publish, tmp_path, capsys):
    theirs = theirs_of("xnas_c10.small")
    publish("xnas_c10.small", {"model": theirs.state_dict(), "optimizer": {"lr": 0.1}})
    assert card(["xnas_c10.small", "--to", str(tmp_path / "card")]) == 0
    text = (tmp_path / "card" / "README.md").read_text()
    page = "https://github.com/NivNayman/XNAS/tree/cbe838d12d043bdb8e0e3e2a1eb04dbe99da2111"
    for words in (
        "trained by others on CIFAR-10.",
        "The weights are those that NivNayman publishes: `trained_models/xnas_small_cifar10.t7` of "
        f"[NivNayman/XNAS@cbe838d]({page})",
        "Not measured by us. NivNayman reports 1.81 % wrong answers (top-1) on CIFAR-10; of which epoch is not said. "
        "Source: README; XNAS' own recipe.",
        "To be known: container not seen",
        f"Weights: apache-2.0, with the notice of [NivNayman/XNAS]({page}). The code of nas-zoo: apache-2.0.",
        f"- NivNayman, the weights ({page})",
        'timm.create_model("xnas_c10.small", pretrained=True)',
        "Classes: airplane, automobile",
    ):
        assert words in text
    # nothing reads as if it were ours: no training, no measurement, no figure where the Hub looks for one
    for words in ("Measured by us", "## Training", "standard error", "98.19", "Trained by `nas-zoo"):
        assert words not in text
    data: Any = ModelCard(text).data
    assert (data.license, data.eval_results, data.metrics) == ("apache-2.0", None, None)

    files = stage(open_checkpoint("xnas_c10.small"), tmp_path / "staged", repo="somebody/xnas", onnx=False)
    names = {path.name for path in files}
    assert names >= {"README.md", "LICENSE", "config.json", "model.safetensors", "reference.safetensors"}
    assert "training_log.jsonl" not in names
    assert f"SHA-256 `{file_sha256(tmp_path / 'staged' / 'model.safetensors')}`" in text
    config = json.loads((tmp_path / "staged" / "config.json").read_text())
    assert "1.81" not in json.dumps(config)
    assert config["pretrained_cfg"]["license"] == "apache-2.0"
    again = timm.create_model(f"local-dir:{tmp_path / 'staged'}", pretrained=True).eval()
    reference = load_file(tmp_path / "staged" / "reference.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again(reference["pixel_values"]), reference["logits"], rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs.eval()(reference["pixel_values"]), reference["logits"], rtol=0, atol=1e-5)
    assert "trained on CIFAR-10 by others: NivNayman, " in page_words(open_checkpoint("xnas_c10.small"))


def test_without_a_licence_nothing_is_fetched_or_written_unless_the_user_answers_for_one(publish, tmp_path, capsys):
    publish("relativenas_c10.emi", theirs_of("relativenas_c10.emi").state_dict())
    for name, program, words in (
        ("relativenas_c10.emi", card, ["--to", str(tmp_path / "card")]),
        ("relativenas_c10.emi", publish_on_hub, ["--repo", "me/net", "--dry-run", "--to", str(tmp_path / "card")]),
        ("p_darts_c10.pdarts", card, ["--to", str(tmp_path / "card")]),
        ("p_darts_in1k.darmo", card, ["--to", str(tmp_path / "card")]),
    ):
        assert program([name, *words]) == 2
        error = capsys.readouterr().err
        row = present(find_public(name))
        assert (
            f"these are {name}, weights of {row.authors} ({row.source}), of which it is said: {row.license}; if you "
            "may publish what comes of them, give its licence with --license" in error
        )
        assert error.count("\n") == 1
    assert not publish.server.requests
    assert not (tmp_path / "card").exists()

    assert card(["relativenas_c10.emi", "--to", str(tmp_path / "card"), "--license", "cc-by-4.0"]) == 0
    text = (tmp_path / "card" / "README.md").read_text()
    assert "license: cc-by-4.0\n" in text
    assert (
        "Weights: cc-by-4.0, as whoever publishes this copy says; of their authors' own publication it is said: "
        "no licence stated." in text
    )
    assert "EMI-Group reports 2.26 % wrong answers (top-1) on CIFAR-10" in text
    assert not list(Path(tmp_path / "card").glob("LICENSE"))


def test_only_licences_that_allow_it_count():
    allowed = {row.license for row in public_weights() if row.may_be_passed_on}
    assert allowed == {"apache-2.0", "mit"}
    assert {"bsd-2-clause", "bsd-3-clause"} < set(OPEN_LICENSES)
    for row in public_weights():
        if "no licence" in row.license or "non-commercial" in row.license or "unclear" in row.license:
            with pytest.raises(ValueError, match="if you may publish"):
                row.license_to_publish("these are")


def test_a_licence_or_a_name_for_a_checkpoint_that_has_its_own_is_refused(capsys, tmp_path):
    for words in (["--license", "mit"], ["--name", "mine"]):
        assert card(["darts_v2_c10_s", "--to", str(tmp_path / "card"), *words]) == 2
        assert "has its own" in capsys.readouterr().err
    assert not (tmp_path / "card").exists()
