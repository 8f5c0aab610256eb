"""An ESM-2 without transformers' code has its weights, by its names, in its order."""

from __future__ import annotations

import subprocess
import sys

import torch
from golden_run import embed, protein_ids

from virnucpro.models.esm2 import Esm2Encoder
from virnucpro.models.esm2_model import to_stock
from virnucpro.tools.random_models import random_bundle, random_esm2

CPU = torch.device("cpu")


def test_names_shapes_and_values_are_those_of_transformers():
    model = random_esm2("tiny", "cpu", torch.float32)
    held = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    stock = to_stock(model)
    found = dict(stock.named_parameters())
    assert list(found) == list(held)
    assert {name: tensor.data_ptr() for name, tensor in found.items()} == held
    assert not any(name.startswith("encoder.layer") for name, _ in model.named_parameters())
    assert to_stock(stock) is stock


def test_our_layers_give_what_the_stock_ones_give():
    proteins = [protein_ids("MKVLAARTNDEQGHIPSWYVCF" * n) for n in (1, 3, 7)]
    own, stock = (
        embed(
            Esm2Encoder(random_esm2("tiny", "cpu", torch.float32), CPU, "fp32", way), proteins, 600
        )
        for way in ("auto", "off")
    )
    torch.testing.assert_close(own, stock, atol=1e-5, rtol=0)


def test_loading_on_a_cpu_does_not_import_transformers(tmp_path):
    bundle = random_bundle(tmp_path)
    code = (
        "import sys; from virnucpro.models.esm2 import Esm2Encoder;"
        f"Esm2Encoder.load({str(bundle / 'esm2')!r}, 'cpu', 'fp32');"
        "sys.exit(any(name in sys.modules for name in ('transformers', 'torch._dynamo')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
