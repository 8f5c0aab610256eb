"""The classifier: feature rows to two scores, others and virus.

Knows the MLP's shape, its two file formats, and how to score so that the bits of a row depend on
that row alone. Does not know what the features are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import batch_norm, linear, softmax

from virnucpro.errors import ModelError
from virnucpro.models.packing import ROW_BLOCK
from virnucpro.models.weights import FLOATS, load_checked, read_state_dict

TENSORS = (
    "hidden_layer.weight",
    "hidden_layer.bias",
    "bn1.weight",
    "bn1.bias",
    "bn1.running_mean",
    "bn1.running_var",
    "output_layer.weight",
    "output_layer.bias",
)
IGNORED = "bn1.num_batches_tracked"  # of training only
LAYERS = ("hidden_layer", "bn1", "output_layer")
MOST_VALUES = 1 << 26  # of a classifier's layer; the published ones have 1.7 million
LARGEST_VALUE = 1e8  # far beyond trained ones (those of mini stay below 2)
USUAL_EPS = 1e-5


class Rows(Protocol):
    """Feature rows [n, width], read a slice at a time: an array, a tensor, or rows that lie
    elsewhere.
    """

    @property
    def shape(self) -> Any:
        """(rows, columns)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Any: ...


class MLPClassifier:
    """Stand-in for the original's class of this name: only a place for the tensors of its pickle,
    never called.
    """


class Layer:
    """Stand-in for the classes of its layers, so that torch's own are not called either."""


ORIGINAL_CLASSES: dict[str, type] = {
    "__main__.MLPClassifier": MLPClassifier,
    "torch.nn.modules.linear.Linear": Layer,
    "torch.nn.modules.batchnorm.BatchNorm1d": Layer,
    "torch.nn.modules.dropout.Dropout": Layer,
}


@dataclass(frozen=True, slots=True)
class Classifier:
    """hidden_layer, bn1, relu, (dropout: nothing at inference), output_layer, softmax; fp32 on the
    CPU.
    """

    tensors: dict[str, torch.Tensor]
    eps: float = USUAL_EPS

    @classmethod
    def load(cls, path: Path | str) -> Classifier:
        """From `.safetensors`, a state dict, or the original's pickled module (read, not
        executed).
        """
        path = Path(path)
        if not path.is_file():
            raise ModelError(
                f"{path}: no such classifier file; give a .safetensors or the original's .pth"
            )
        if path.suffix == ".safetensors":
            return cls(checked(read_state_dict(path), path))
        found, eps = read_original(path)
        return cls(checked(found, path), eps)

    def save(self, path: Path | str) -> None:
        """Write `.safetensors` with the original's names."""
        from virnucpro.models.convert import write_safetensors

        if self.eps != USUAL_EPS:
            raise ModelError(
                f"{path}: batch norm eps {self.eps} is not the usual 1e-5; keep this classifier's"
                " .pth"
            )
        write_safetensors(self.tensors, Path(path))

    @property
    def width(self) -> int:
        """Columns of a feature row."""
        return self.tensors["hidden_layer.weight"].shape[1]

    @torch.inference_mode()
    def scores(self, features: Rows) -> np.ndarray:
        """Softmax scores float32 [n, 2] (others, virus) of features [n, width]; NaN for a row that
        is not finite.
        """
        if len(features.shape) != 2 or features.shape[1] != self.width:
            raise ModelError(
                f"features of shape {tuple(features.shape)} do not fit a classifier of width"
                f" {self.width}"
            )
        out = np.empty((len(features), 2), np.float32)
        size = block_rows()
        block = torch.zeros(size, self.width)
        for start in range(0, len(features), size):
            part = features[start : start + size]
            # by numpy: torch warns of memory that is mapped for reading
            block.numpy()[: len(part)] = part
            out[start : start + len(part)] = self._block(block)[: len(part)].numpy()
        return out

    def _block(self, block: torch.Tensor) -> torch.Tensor:
        t = self.tensors
        hidden = linear(block, t["hidden_layer.weight"], t["hidden_layer.bias"])
        hidden = batch_norm(
            hidden,
            t["bn1.running_mean"],
            t["bn1.running_var"],
            t["bn1.weight"],
            t["bn1.bias"],
            eps=self.eps,
        )
        return softmax(
            linear(hidden.relu(), t["output_layer.weight"], t["output_layer.bias"]), dim=1
        )


def block_rows() -> int:
    """Rows a product, always the same and an even share for every thread: so a row's bits depend on
    the row alone.
    """
    share = ROW_BLOCK * torch.get_num_threads()
    return share * max(1, 768 // share)


def checked(found: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The eight tensors in fp32, contiguous. Raises ModelError unless they are those of the MLP, of
    consistent shapes, and can tell two rows apart.
    """

    def wrong(what: str) -> ModelError:
        return ModelError(
            f"{path}: not a VirNucPro classifier, {what}; get it from its source again"
        )

    missing = [name for name in TENSORS if name not in found]
    if missing:
        raise wrong(f"{missing[0]} is missing")
    other = [name for name in found if name not in TENSORS and name != IGNORED]
    if other:
        raise wrong(f"it has another layer, {other[0][:80]}")
    for name in TENSORS:
        if str(found[name].dtype) not in FLOATS or found[name].layout is not torch.strided:
            raise wrong(f"{name} holds {found[name].dtype} instead of plain floating point numbers")
    check_shapes(found, path)
    tensors = {name: found[name].detach().float().contiguous() for name in TENSORS}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()) or float(tensor.abs().max()) > LARGEST_VALUE:
            raise wrong(f"{name} holds a value that is not finite or above {LARGEST_VALUE:,.0f}")
    if float(tensors["bn1.running_var"].min()) < 0:
        raise wrong("bn1.running_var holds a negative variance")
    others, virus = tensors["output_layer.weight"]
    used = (others != virus) & (tensors["bn1.weight"] != 0)
    if not bool(tensors["hidden_layer.weight"][used].any()):
        raise wrong("its weights are zero where they matter: every sequence would score alike")
    return tensors


def check_shapes(found: dict[str, torch.Tensor], path: Path) -> None:
    """Raise ModelError unless the eight tensors are of shapes that belong together; reads no
    value.
    """
    shapes = {name: tuple(found[name].shape) for name in TENSORS}
    first = shapes["hidden_layer.weight"]
    hidden = first[0] if first else 0
    wanted = {name: (hidden,) for name in TENSORS} | {
        "hidden_layer.weight": first,
        "output_layer.weight": (2, hidden),
        "output_layer.bias": (2,),
    }
    name = next((name for name in TENSORS if shapes[name] != wanted[name]), None)
    if len(first) != 2 or not 0 < first[0] * first[1] <= MOST_VALUES:
        name = "hidden_layer.weight"
    if name is not None:
        raise ModelError(
            f"{path}: {name} is {shapes[name]}; a classifier has two classes and one hidden layer"
        )


def read_original(path: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Tensors and batch norm eps of a `.pth`: a state dict, or the whole module as the original
    pickles it.
    """
    loaded = load_checked(path, ORIGINAL_CLASSES)
    if isinstance(loaded, MLPClassifier):
        # The attributes are read as data: no method of an object from a file is called.
        try:
            return read_module(vars(loaded)["_modules"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ModelError(
                f"{path}: not a VirNucPro classifier, its layers are not hidden_layer, bn1 and"
                f" output_layer as the original has them ({error}); get it from its source again"
            ) from None
    if isinstance(loaded, dict) and all(isinstance(v, torch.Tensor) for v in loaded.values()):
        return {str(name): value for name, value in loaded.items()}, USUAL_EPS
    raise ModelError(
        f"{path}: not a VirNucPro classifier but a {type(loaded).__name__}; get it from its source"
        " again"
    )


def read_module(modules: dict[str, Any]) -> tuple[dict[str, torch.Tensor], float]:
    """Tensors and batch norm eps from the original module's layers.

    Errors: KeyError, TypeError, AttributeError or ValueError where they are others.
    """
    if set(modules) - {"dropout"} != set(LAYERS):
        raise ValueError(f"it has {len(modules)} layers")
    if not all(type(module) is Layer for module in modules.values()):
        raise ValueError("a layer is of another kind")
    found: dict[str, torch.Tensor] = {}
    for name in LAYERS:
        layer = vars(modules[name])
        if layer["_modules"]:
            raise ValueError(f"{name} has layers inside")
        for key, tensor in (layer["_parameters"] | layer["_buffers"]).items():
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(f"{name} holds something other than tensors")
            found[f"{name}.{key}"] = tensor
    eps = vars(modules["bn1"])["eps"]
    if not isinstance(eps, float) or not 0 < eps < 0.1:
        raise ValueError("bn1's eps is no small number")
    return found, eps
