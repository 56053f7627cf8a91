"""Fine-tuning: a run that begins with trained weights, holds back what it is told to, and goes on as any run."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import nas_zoo  # noqa: F401  # registers
from nas_zoo.data.named import open_source
from nas_zoo.export.publish.card import card_text
from nas_zoo.export.publish.card import main as main_card
from nas_zoo.export.publish.published import open_checkpoint
from nas_zoo.release.adopt import adopt
from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.train.evaluation import evaluate_model
from nas_zoo.train.evaluation import main as main_evaluate
from nas_zoo.train.model import began_with
from nas_zoo.train.recipes import RECIPES, TrainSettings
from nas_zoo.train.run import Training, main, parse
from tests.served_weights import theirs_of
from tests.weights import write_images

MODEL = "darts_v2_c10_s"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("photos"), per_class=8)


def words(photos, out, *more: str) -> list[str]:
    return ["--recipe", "finetune", "--model", MODEL, "--pretrained", "--data", str(photos), "--epochs", "1",
            "--batch-size", "40", "--eval-every", "0", "--workers", "0", "--out", str(out), *more]  # fmt: skip


@pytest.mark.slow
def test_a_run_begins_with_the_weights_and_with_their_scaling_of_images(photos, tmp_path):
    settings, _ = parse(words(photos, tmp_path, "--frozen-stem", "--layer-decay", "0.75"))
    training = Training(settings, start_accelerator())
    before: Any = timm.create_model(MODEL, pretrained=True)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
    cfg = before.pretrained_cfg
    assert (training.source.mean, training.source.std) == (tuple(cfg["mean"]), tuple(cfg["std"]))
    # a layer's rate is three quarters of the next one's; the stem is in no group, being frozen
    scales = {}
    names = {id(parameter): name for name, parameter in training.model.named_parameters()}
    for group in training.optimizer.param_groups:
        for parameter in group["params"]:
            scales[names[id(parameter)]] = group["lr_scale"]
    assert not any(name.startswith("stem") for name in scales)
    assert scales["classifier.weight"] == 1.0
    first, second = (scales[f"cells.{i}.preprocess1.conv.weight"] for i in (0, 1))
    assert first / second == pytest.approx(0.75)
    assert settings.lr == RECIPES["finetune"]["lr"] < RECIPES["quick"]["lr"]


def renamed(photos, folder):
    """The same pictures under ten other names of classes, in the same order."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for number, place in enumerate(sorted((photos / split).iterdir())):
            (folder / split / f"animal_{number}").symlink_to(place)
    return folder


def test_as_many_other_classes_get_a_new_classifier_unless_the_user_keeps_it(photos, tmp_path, capsys):
    others = renamed(photos, tmp_path / "others")
    own: Any = timm.create_model(MODEL, pretrained=True)

    def begun(data, *more: str) -> Training:
        return Training(parse(words(data, tmp_path, *more))[0], start_accelerator())

    for training, said, kept in (
        (begun(photos), f"the classifier is that of {MODEL}, whose classes these are", True),
        (begun(others), f"the classifier is new: {MODEL} has other classes", False),
        (begun(others, "--keep-classifier"), f"the classifier is that of {MODEL}, kept as asked", True),
    ):
        assert training.classifier == said
        assert torch.equal(training.model.classifier.weight, own.classifier.weight) is kept
        assert torch.equal(training.model.cells[3].preprocess1.conv.weight, own.cells[3].preprocess1.conv.weight)
    again = begun(others)
    assert torch.equal(again.model.classifier.weight, begun(others).model.classifier.weight)  # of the seed

    # it is told when the run begins, stands in its log, and the run's own file says its classes
    assert main(words(others, tmp_path / "run")) == 0
    assert f"parameters; the classifier is new: {MODEL} has other classes\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["classifier"].endswith("classes")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "tag" not in config["pretrained_cfg"]
    for data, said in ((others, "whose classes these are"), (photos, "has other classes")):
        flags = ["--recipe", "quick", "--data", str(data), "--out", str(tmp_path / "b"), "--workers", "0"]
        first = ["--init-weights", str(tmp_path / "run" / "model.safetensors"), "--model", MODEL]
        assert str(Training(parse([*flags, *first])[0], start_accelerator()).classifier).endswith(said)
    # and it is not measured on the classes it came from
    assert main_evaluate([str(tmp_path / "run"), "--data", str(photos)]) == 2
    assert "its classes are not the model's; class 0 is 'airplane'" in capsys.readouterr().err
    assert main_evaluate([str(tmp_path / "run"), "--data", str(others)]) == 0
    assert json.loads(capsys.readouterr().out)["same_classes"] is True


def test_weights_that_do_not_say_their_classes_are_vouched_for_by_nobody(publish, photos, tmp_path, capsys):
    """As many classes as CIFAR-100 has, whatever they are."""
    hundred = tmp_path / "hundred"
    for split in ("train", "test"):
        for number in range(100):
            (hundred / split).mkdir(parents=True, exist_ok=True)
            (hundred / split / f"{number:02d}").symlink_to(photos / "test" / "cat")
    theirs = theirs_of("relativenas_c100.emi").state_dict()
    publish("relativenas_c100.emi", theirs)
    flags = ["--recipe", "finetune", "--model", "relativenas_c100.emi", "--pretrained", "--data", str(hundred),
             "--workers", "0", "--out", str(tmp_path / "run")]  # fmt: skip
    new = Training(parse(flags)[0], start_accelerator())
    assert new.classifier == (
        "the classifier is new: relativenas_c100.emi does not say of which classes its own is "
        "(--keep-classifier keeps it)"
    )
    assert not torch.equal(new.model.classifier.weight, theirs["classifier.weight"])
    kept = Training(parse([*flags, "--keep-classifier"])[0], start_accelerator())
    assert torch.equal(kept.model.classifier.weight, theirs["classifier.weight"])

    small = tmp_path / "small"
    for number in range(100):
        (small / "test" / f"{number:02d}").mkdir(parents=True)
        (small / "test" / f"{number:02d}" / "a.png").symlink_to(photos / "test" / "cat" / "00.png")
    assert (
        main_evaluate(["relativenas_c100.emi", "--data", str(small), "--test-data", str(small), "--workers", "0"]) == 0
    )
    out, err = capsys.readouterr()
    assert json.loads(out)["same_classes"] is None
    assert "relativenas_c100.emi does not say what its classes are; that they are those of" in err


@pytest.mark.slow
def test_first_weights_of_another_run_are_told_with_where_they_come_from(photos, tmp_path):
    """The card of a chain of runs called others' weights a search's own, and gave them a licence."""
    flags = ["--recipe", "quick", "--model", "test_resnet", "--data", str(photos), "--epochs", "1", "--warmup-epochs",
             "0", "--workers", "0", "--eval-every", "0", "--batch-size", "8"]  # fmt: skip
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*flags, "--out", str(first)]) == 0
    config = json.loads((first / "config.json").read_text())
    assert "tag" not in config["pretrained_cfg"]  # of timm's own weights
    assert "began_with" not in json.loads((first / "result.json").read_text())
    assert main([*flags, "--out", str(second), "--init-weights", str(first)]) == 0
    result = json.loads((second / "result.json").read_text())
    assert result["began_with"] == f"local-dir:{first}"
    (second / "result.json").write_text(json.dumps(result | {"began_with": "relativenas_c100.emi"}))

    def origin(weights: Path) -> str | None:
        return began_with(TrainSettings(init_weights=weights))

    assert origin(second / "model.safetensors") == origin(second) == "relativenas_c100.emi"
    (tmp_path / "derived.safetensors").touch()
    assert origin(tmp_path / "derived.safetensors") is origin(tmp_path) is None  # a search's


def test_a_model_of_one_size_is_refused_for_another(photos, tmp_path, capsys):
    flags = ["--recipe", "quick", "--model", "test_vit", "--data", str(photos), "--image-size", "32", "--workers", "0"]
    assert main([*flags, "--out", str(tmp_path / "run")]) == 2
    assert "model='test_vit' takes images of 160 x 160 pixels alone, not of 32" in capsys.readouterr().err
    network = timm.create_model("test_vit", num_classes=10)
    with pytest.raises(ValueError, match="takes images of 160 x 160 pixels alone, not of 32"):
        evaluate_model(network, open_source(str(photos), "test", image_size=32))


def test_a_frozen_stem_stays_and_the_rest_learns_and_another_head_is_new(photos, tmp_path):
    few = tmp_path / "few"
    for split in ("train", "test"):
        for name in ("cat", "dog", "ship"):
            (few / split).mkdir(parents=True, exist_ok=True)
            (few / split / name).symlink_to(photos / split / name)
    assert main(words(few, tmp_path / "run", "--frozen-stem", "--batch-size", "12")) == 0
    after = load_file(tmp_path / "run" / "model.safetensors")
    before: Any = timm.create_model(MODEL, pretrained=True)
    own = before.state_dict()
    assert torch.equal(after["stem.0.conv.weight"], own["stem.0.conv.weight"])
    assert torch.equal(after["stem.0.bn.weight"], own["stem.0.bn.weight"])
    changed = after["cells.3.preprocess1.conv.weight"] - own["cells.3.preprocess1.conv.weight"]
    assert 0 < changed.abs().max() < 0.1
    assert after["classifier.weight"].shape[0] == 3
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["model"], result["began_with"]) == (MODEL, MODEL)
    text = card_text(open_checkpoint(str(tmp_path / "run")))
    assert "C = 16, fine-tuned on " in text
    assert "from the trained weights `darts_v2_c10_s` for 1 epoch" in text
    with pytest.raises(ValueError, match="began with darts_v2_c10_s: only runs from scratch come into the package"):
        adopt(tmp_path / "run", tag="mine")

    # as if it had begun with weights of others: their licence decides, or the user's word
    for name, licence in (("xnas_c10.small", "apache-2.0"), ("relativenas_c10.emi", None)):
        (tmp_path / "run" / "result.json").write_text(json.dumps(result | {"began_with": name}))
        if licence:
            checkpoint = open_checkpoint(str(tmp_path / "run"))
            assert checkpoint.row.license == licence
            assert (
                f"`{name}`, which NivNayman publishes (NivNayman/XNAS@cbe838d; licence: apache-2.0), for 1 epoch"
                in (card_text(checkpoint))
            )
        else:
            told = "began with relativenas_c10.emi, weights of EMI-Group .*no licence stated; if you may publish"
            with pytest.raises(ValueError, match=told):
                open_checkpoint(str(tmp_path / "run"))
            assert main_card([str(tmp_path / "run"), "--to", str(tmp_path / "card")]) == 2
            words_of_mine = [str(tmp_path / "run"), "--to", str(tmp_path / "card"), "--license", "cc-by-4.0"]
            assert main_card(words_of_mine) == 0
            card = (tmp_path / "card" / "README.md").read_text()
            assert "license: cc-by-4.0" in card
            assert "which EMI-Group publishes (EMI-Group/RelativeNAS@454610f; licence: no licence stated)" in card
    with pytest.raises(ValueError, match=r"these are relativenas_c10\.emi, weights of EMI-Group"):
        open_checkpoint("relativenas_c10.emi")
    saved: Any = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert tuple(saved.pretrained_cfg["mean"]) == tuple(before.pretrained_cfg["mean"])


def test_what_does_not_go_together_is_told(photos, tmp_path):
    for more, said in (
        (["--init-weights", "other.safetensors"], "pretrained and init_weights are two sets of first weights"),
        (["--layer-decay", "0.5", "--aux-weight", "0.4"], "aux_weight must be 0 with layer_decay=0.5, got 0.4"),
        (["--layer-decay", "0"], "layer_decay"),
        (["--no-pretrained", "--keep-classifier"], "keep_classifier goes with pretrained or init_weights"),
    ):
        with pytest.raises(ValueError, match=said):
            parse(words(photos, tmp_path, *more))
    few = tmp_path / "few"
    for split, name in ((split, name) for split in ("train", "test") for name in ("cat", "dog")):
        (few / split).mkdir(parents=True, exist_ok=True)
        (few / split / name).symlink_to(photos / split / name)
    with pytest.raises(
        ValueError, match="keep_classifier: the weights of darts_v2_c10_s are of 10 classes, the data of 2"
    ):
        Training(parse(words(few, tmp_path, "--keep-classifier"))[0], start_accelerator())
