"""The real files of other people, from their real places; left out unless asked for: `pytest -m network`."""

from typing import Any

import pytest
import timm
import torch

import nas_zoo  # noqa: F401  # registers
from nas_zoo.models.public import public_weights


@pytest.mark.network
@pytest.mark.parametrize("name", [row.name for row in public_weights() if row.tag])
def test_the_real_file_is_there_and_converts(name):
    model: Any = timm.create_model(name, pretrained=True).eval()
    channels, _, side = model.pretrained_cfg["input_size"]
    with torch.no_grad():
        logits = model(torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, model.num_classes)
    assert logits.isfinite().all()
    assert logits.std() > 0.1  # trained
