"""What this machine can do with nas-zoo, and what is wrong with it.

Every line is the outcome of trying the thing: a provider that onnxruntime merely lists counts for nothing.
"""

import importlib.metadata
import os
import platform
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nas_zoo.text import plain

__all__ = ["Finding", "examine", "report"]


@dataclass(frozen=True)
class Finding:
    """One thing that was tried. "missing" is an ability this machine lacks, "wrong" something to mend."""

    what: str
    state: Literal["ok", "missing", "wrong"]
    detail: str


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def _packages() -> list[Finding]:
    """Installed versions against the lower bounds of our own metadata."""
    from packaging.requirements import Requirement

    findings = []
    try:
        requires = importlib.metadata.requires("nas-zoo") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("packages", "wrong", "nas-zoo itself is not installed (pip install -e .)")]
    bad: list[str] = []
    good: list[str] = []
    for line in requires:
        match = re.match(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)", line)
        marker = Requirement(line).marker
        if "extra ==" in line or match is None or not (marker is None or marker.evaluate()):
            continue
        name, least = match.groups()
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{name} is missing (>= {least} is needed)")
            continue
        (good if _version(have) >= _version(least) else bad).append(
            f"{name} {have}" if _version(have) >= _version(least) else f"{name} {have} is older than {least}"
        )
    if bad:
        findings.append(Finding("packages", "wrong", "; ".join(bad)))
    findings.append(Finding("packages", "ok", ", ".join(good)))
    return findings


def _torch() -> list[Finding]:
    import torch
    import torchvision

    findings = [Finding("torch", "ok", f"{torch.__version__}, torchvision {torchvision.__version__}, "
                                       f"{torch.get_num_threads()} CPU threads of {os.cpu_count()} cores")]  # fmt: skip
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            findings.append(
                Finding(f"cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
            )
    else:
        findings.append(Finding("cuda", "missing", "torch sees no CUDA device; searches and training run on the CPU"))
    return findings


def _models() -> list[Finding]:
    import timm
    import torch

    names = timm.list_models(module="nas_zoo")
    model = timm.create_model("cell_net_cifar", init_channels=4, num_cells=3).eval()
    with torch.no_grad():
        ok = model(torch.zeros(1, 3, 32, 32)).isfinite().all().item()
    return [Finding("models", "ok" if ok else "wrong", f"{len(names)} registered with timm; a small one runs")]


def _weights() -> list[Finding]:
    """Each published checkpoint against its hash and its reference tensors; one on the Hub only if it is cached."""
    import timm

    from nas_zoo.models.results import fetch_weights, package_results, reference_path
    from nas_zoo.release.adopt import compare_with_reference

    findings = []
    for row in package_results():
        what = f"weights of {row.name}"
        try:
            path = fetch_weights(row, local_only=True)
        except ValueError as error:
            findings.append(
                Finding(what, "missing" if row.hub_id and "SHA-256" not in str(error) else "wrong", str(error))
            )
            continue
        model = timm.create_model(row.name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
        difference, most = compare_with_reference(model, reference_path(row))
        state: Literal["ok", "wrong"] = "ok" if difference <= most else "wrong"
        words = f"logits agree with the references to {difference:.1e} (at most {most:.1e} may be), {row.dtype}"
        findings.append(Finding(what, state, words))
    return findings or [Finding("weights", "missing", "the package holds no trained weights")]


def _onnx() -> list[Finding]:
    """A small network exported, checked against PyTorch, and run on each provider that may work here."""
    import timm

    from nas_zoo.export.graph.check import check_onnx
    from nas_zoo.export.graph.onnx_file import export_onnx
    from nas_zoo.export.runtime.classifier import OnnxClassifier, ProviderError, provider_problems

    findings = []
    model = timm.create_model("cell_net_cifar", init_channels=4, num_cells=1)
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(model, Path(folder) / "small.onnx")
        difference = check_onnx(path, model, batches=(1, 3))["largest_difference"]
        findings.append(Finding("onnx export", "ok", f"a small network agrees with PyTorch to {difference:.1e}"))
        problems = provider_problems("cuda")
        both = any("both" in problem for problem in problems)
        if not problems:
            try:
                OnnxClassifier(path, provider="cuda")
                findings.append(Finding("onnxruntime cuda", "ok", "ran the small network"))
            except ProviderError as error:
                problems = [str(error)]
        if problems:
            findings.append(Finding("onnxruntime cuda", "wrong" if both else "missing", "; ".join(problems)))
    return findings


def _folders() -> list[Finding]:
    from nas_zoo.data.named import cache_folder

    folder = cache_folder()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    if os.access(parent, os.W_OK):
        return [Finding("cache", "ok", f"{'writable' if folder.exists() else 'will be made'}: cifar10 and cifar100")]
    return [Finding("cache", "wrong", f"{folder} cannot be written; set NAS_ZOO_CACHE, or give --data-root")]


def examine(models: bool = False) -> list[Finding]:
    """All findings; a check that itself fails is a finding, not an end. `models`: every published checkpoint too."""
    findings = [Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("packages", _packages), ("torch", _torch), ("models", _models), ("onnx", _onnx),
        ("cache", _folders), *([("weights", _weights)] if models else []),
    ]  # fmt: skip
    for name, check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken installation fails in any way it likes; that is what we are here to tell
            text = str(error).splitlines()[0] if str(error) else ""
            findings.append(Finding(name, "wrong", f"{type(error).__name__}: {text}"))
    return findings


def report(findings: list[Finding]) -> str:
    width = max(len(finding.what) for finding in findings)
    return "\n".join(f"{f.state:<8} {f.what:<{width}}  {plain(f.detail)}" for f in findings)


def as_json(findings: list[Finding]) -> list[dict[str, str]]:
    return [asdict(finding) for finding in findings]
