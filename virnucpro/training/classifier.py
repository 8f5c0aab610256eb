"""A classifier on stored features, by the original's recipe: an MLP of one hidden layer with batch
norm and dropout.

SGD 2e-4 with momentum 0.9, the rate times 0.85 every 10 epochs, an end after 5 epochs without a
better validation loss. Features are a run's `merged_features.pt`; labels and sides come from
`frames.tsv` of `prepare`, joined by frame id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virnucpro.errors import StoreError, UsageError
from virnucpro.files import write_json, writing
from virnucpro.training.examples import Examples, load_examples
from virnucpro.training.metrics import at_threshold, auprc, auroc, recall_at
from virnucpro.training.settings import TrainSettings
from virnucpro.training.tables import write_rows

if TYPE_CHECKING:
    import torch

SCORED_AT_ONCE = 4096  # rows


@dataclass(frozen=True)
class ClassifierRecipe:
    """The original's numbers."""

    hidden: int = 512
    dropout: float = 0.5
    learning_rate: float = 2e-4
    momentum: float = 0.9
    step: int = 10  # epochs until the rate falls
    decay: float = 0.85  # what it is multiplied by then
    patience: int = 5  # epochs without a better validation loss


@dataclass
class Best:
    """The epoch with the lowest validation loss so far."""

    loss: float = float("inf")
    epoch: int = -1
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class ClassifierTraining:
    """The classifier on its way, epoch by epoch."""

    def __init__(
        self, examples: dict[str, Examples], settings: TrainSettings, recipe: ClassifierRecipe
    ):
        import torch
        from accelerate import Accelerator

        from virnucpro.training.bundle.network import MLP

        self.settings, self.recipe = settings, recipe
        self.train, self.held = examples["train"], examples["validation"]
        self.width = self.train.features.shape[1]
        self.accelerator = Accelerator()
        torch.manual_seed(settings.seed)
        model = MLP(self.width, recipe.hidden, dropout=recipe.dropout)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum
        )
        self.schedule = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step, recipe.decay)
        share = self.train.virus.mean()
        weight = [0.5 / (1 - share), 0.5 / share] if settings.balance else [1.0, 1.0]
        self.loss_of = torch.nn.CrossEntropyLoss(
            weight=torch.tensor(weight, dtype=torch.float32).to(self.accelerator.device)
        )
        data = torch.utils.data.TensorDataset(
            torch.from_numpy(self.train.features),
            torch.from_numpy(self.train.virus.astype(np.int64)),
        )
        self.order = torch.Generator()
        batches = torch.utils.data.DataLoader(
            data,
            settings.batch_size,
            shuffle=True,
            drop_last=len(data) > settings.batch_size,
            generator=self.order,
        )
        self.model, self.optimizer, self.batches = self.accelerator.prepare(
            model, optimizer, batches
        )
        self.next_epoch, self.best = 0, Best()
        self.log: list[dict[str, float]] = []

    def load(self, path: Path) -> None:
        """Go on from a saved state. StoreError: of features of another width."""
        import torch

        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["width"] != self.width:
            raise StoreError(
                f"{path}: is of features of width {saved['width']}, these are {self.width} wide"
            )
        self.accelerator.unwrap_model(self.model).load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.next_epoch, self.log = saved["epoch"] + 1, saved["log"]
        self.best = Best(**saved["best"])

    def save(self, path: Path) -> None:
        """Keep all that `load` needs, whole or not at all."""
        import torch

        if self.accelerator.is_main_process:
            state = {
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "epoch": self.next_epoch - 1,
                "best": {f: getattr(self.best, f) for f in ("loss", "epoch", "tensors")},
                "log": self.log,
                "width": self.width,
            }
            with writing(path) as stream:
                torch.save(state, stream)

    def finished(self) -> bool:
        """Whether all epochs are over, or no better one has come for too long."""
        waited = self.next_epoch - self.best.epoch if self.best.epoch >= 0 else 0
        return self.next_epoch >= self.settings.epochs or waited > self.recipe.patience

    def learn_epoch(self) -> dict[str, float]:
        """One epoch; what the log says of it."""
        import torch

        epoch, device = self.next_epoch, self.accelerator.device
        # a resumed run draws what an undisturbed one would
        torch.manual_seed(self.settings.seed * 100_003 + epoch)
        self.order.manual_seed(self.settings.seed * 100_003 + epoch)
        self.model.train()
        total, n = torch.zeros((), device=device), 0
        for features, label in self.batches:
            self.optimizer.zero_grad()
            loss = self.loss_of(self.model(features), label)
            self.accelerator.backward(loss)
            self.optimizer.step()
            total, n = total + loss.detach() * len(label), n + len(label)
        self.schedule.step()
        held_loss, score = self.validate()
        if held_loss < self.best.loss:
            state = self.accelerator.unwrap_model(self.model).state_dict()
            tensors = {k: v.detach().cpu().clone() for k, v in state.items()}
            self.best = Best(held_loss, epoch, tensors)
        self.next_epoch += 1
        entry = {
            "epoch": epoch + 1,
            "train_loss": total.item() / n,
            "validation_loss": held_loss,
            "validation_auroc": auroc(score, self.held.virus),
        }
        self.log.append(entry)
        return entry

    def validate(self) -> tuple[float, np.ndarray]:
        """(loss, margin of each row) on the validation side, without dropout."""
        import torch

        model = self.accelerator.unwrap_model(self.model).eval()
        device, held = self.accelerator.device, self.held
        margins, total = [], 0.0
        with torch.no_grad():
            for at in range(0, len(held.virus), SCORED_AT_ONCE):
                rows = slice(at, at + SCORED_AT_ONCE)
                logits = model(torch.from_numpy(held.features[rows]).to(device))
                label = torch.from_numpy(held.virus[rows].astype(np.int64)).to(device)
                total += self.loss_of(logits, label).item() * len(label)
                margins.append((logits[:, 1] - logits[:, 0]).cpu().numpy())
        return total / len(held.virus), np.concatenate(margins)


def train_classifier(
    settings: TrainSettings,
    say: Callable[[str], None] = lambda _: None,
    recipe: ClassifierRecipe = ClassifierRecipe(),
) -> dict[str, Any]:
    """Train, write `classifier.safetensors`, `log.csv`, `metrics.json` and `curve.png`; returns the
    metrics.
    """
    from virnucpro.models.classifier import Classifier

    if settings.batch_size < 2:
        raise UsageError("--batch-size: batch norm needs at least 2 rows")
    if settings.frames is None or not settings.features:
        raise UsageError("a classifier is trained on --features and --frames")
    if settings.learning_rate is not None:
        recipe = replace(recipe, learning_rate=settings.learning_rate)
    examples, counts = load_examples(settings.features, settings.frames)
    say(", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in counts.items()))
    training = ClassifierTraining(examples, settings, recipe)
    settings.output.mkdir(parents=True, exist_ok=True)
    state = settings.output / "state.pt"
    if settings.resume and state.exists():
        training.load(state)
    while not training.finished():
        say(_listed(training.learn_epoch()))
        training.save(state)
    best = training.best
    classifier = Classifier({k: v for k, v in best.tensors.items() if "num_batches" not in k})
    names = ("epochs", "batch_size", "balance", "seed", "resume")
    metrics: dict[str, Any] = {
        "settings": asdict(recipe) | {name: getattr(settings, name) for name in names},
        "counts": counts,
        "best_epoch": best.epoch + 1,
    }
    for side in ("validation", "test"):
        e = examples[side]
        if len(e.virus) and e.virus.any() and not e.virus.all():
            metrics[side] = frame_metrics(classifier.scores(e.features)[:, 1], e.virus)
    if training.accelerator.is_main_process:
        classifier.save(settings.output / "classifier.safetensors")
        write_rows(settings.output / "log.csv", training.log)
        write_json(settings.output / "metrics.json", metrics)
        plot_curve(settings.output / "curve.png", training.log)
    return metrics


def _listed(entry: Mapping[str, float]) -> str:
    return "  ".join(
        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()
    )


def frame_metrics(virus_score: np.ndarray, virus: np.ndarray) -> dict[str, float]:
    """Figures of single frames at 0.5."""
    return {
        "rows": len(virus),
        "auroc": auroc(virus_score, virus),
        "auprc": auprc(virus_score, virus),
        "recall_at_1pct": recall_at(virus_score, virus, 0.01),
        "recall_at_5pct": recall_at(virus_score, virus, 0.05),
        **at_threshold(virus_score, virus, 0.5),
    }


def plot_curve(path: Path, log: list[dict[str, float]]) -> None:
    """Losses by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("train_loss", "validation_loss"):
        axes.plot([e["epoch"] for e in log], [e[name] for e in log], label=name.replace("_", " "))
    axes.set(xlabel="epoch", ylabel="cross entropy")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
