"""What the campaign of `mini` does to a network beyond training it once."""

from __future__ import annotations

from pathlib import Path

from virnucpro.errors import ModelError
from virnucpro.training.bundle.network import Network


def free_dnabert_s(network: Network) -> None:
    """Undo `Network.fix_dnabert_s`."""
    network.dnabert_s_fixed = False
    for module in (network.dnabert_s, network.dnabert_s_only, network.dnabert_s_tokens):
        module.requires_grad_(True)


def set_dropout(network: Network, values: float, branches: float) -> None:
    """Set the encoders' dropout rates: of single values, and of a row's whole branch."""
    for encoder in (network.esm2, network.dnabert_s):
        encoder.dropout.values.fill_(values)
        encoder.dropout.branches.fill_(branches)


def load_parts(network: Network, directory: Path, names: tuple[str, ...]) -> None:
    """Put saved parts (of `esm2`, `dnabert_s`, `classifier`, `heads`) into `network`; the rest
    stays as it is.
    """
    from safetensors.torch import load_file

    modules = {
        "esm2": network.esm2.model,
        "dnabert_s": network.dnabert_s.model,
        "classifier": network.classifier,
        "heads": network,
    }
    for name in names:
        tensors = {k: v.float() for k, v in load_file(directory / f"{name}.safetensors").items()}
        odd = modules[name].load_state_dict(tensors, strict=False).unexpected_keys
        if odd:
            raise ModelError(
                f"{directory / name}.safetensors: {odd[0]} fits no tensor of this network"
            )


def load_bundle(network: Network, bundle: Path) -> None:
    """Put the encoders and the classifier of a bundle directory into `network`."""
    from safetensors.torch import load_file

    for module, name in (
        (network.esm2.model, "esm2/model"),
        (network.dnabert_s.model, "dnabert_s/model"),
        (network.classifier, "classifier"),
    ):
        tensors = {k: v.float() for k, v in load_file(bundle / f"{name}.safetensors").items()}
        odd = module.load_state_dict(tensors, strict=False).unexpected_keys
        if odd:
            raise ModelError(
                f"{bundle / name}.safetensors: {odd[0]} fits no tensor of this network"
            )
