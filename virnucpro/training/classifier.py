"""A classifier on stored features, by the original's recipe: an MLP of one hidden layer with batch
norm and dropout.

SGD 2e-4 with momentum 0.9, the rate times 0.85 every 10 epochs, an end after 5 epochs without a
better validation loss. Features are a run's `merged_features.pt`; labels and sides come from
`frames.tsv` of `prepare`, joined by frame id.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from virnucpro.errors import InputError, StoreError, UsageError
from virnucpro.training.metrics import at_threshold, auprc, auroc, recall_at


@dataclass(frozen=True)
class RecipeSettings:
    """The original's numbers."""

    features: tuple[Path, ...]
    frames: Path
    output: Path
    hidden: int = 512
    dropout: float = 0.5
    learning_rate: float = 2e-4
    momentum: float = 0.9
    step: int = 10
    decay: float = 0.85
    patience: int = 5
    epochs: int = 200
    batch_size: int = 32
    balance: bool = True
    seed: int = 1
    resume: bool = False


@dataclass(frozen=True)
class Examples:
    """Rows of one side. features [n, width] float32, virus [n] bool, group [n] str."""

    features: np.ndarray
    virus: np.ndarray
    group: np.ndarray


def load_examples(settings: RecipeSettings) -> tuple[dict[str, Examples], dict[str, int]]:
    """Examples by side, and counts of rows without a label and labels without a row."""
    from virnucpro.embedding.matrix import read_matrix

    labels: dict[str, tuple[bool, str, str]] = {}
    with settings.frames.open(newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t")
        if not reader.fieldnames or not {"frame_id", "label", "group", "split"} <= set(
            reader.fieldnames
        ):
            raise InputError(
                f"{settings.frames}: not a frames.tsv of `virnucpro prepare` (frame_id label group"
                " split)"
            )
        for row in reader:
            labels[row["frame_id"]] = (row["label"] == "virus", row["group"], row["split"])
    taken: dict[str, list] = {side: [] for side in ("train", "validation", "test")}
    seen: set[str] = set()
    unlabelled = 0
    for path in settings.features:
        ids, matrix = read_matrix(path)
        rows: dict[str, list[int]] = {side: [] for side in taken}
        facts: dict[str, list] = {side: [] for side in taken}
        for i, name in enumerate(ids):
            fact = labels.get(name)
            if fact is None or name in seen:
                unlabelled += 1
                continue
            seen.add(name)
            rows[fact[2]].append(i)
            facts[fact[2]].append(fact)
        for side in taken:
            if rows[side]:
                taken[side].append(
                    (np.asarray(matrix[np.array(rows[side])], dtype=np.float32), facts[side])
                )
    out = {}
    for side, parts in taken.items():
        facts = [fact for _, more in parts for fact in more]
        out[side] = Examples(
            np.concatenate([f for f, _ in parts]) if parts else np.zeros((0, 0), np.float32),
            np.array([f[0] for f in facts], dtype=bool),
            np.array([f[1] for f in facts], dtype=str),
        )
    counts = {
        "rows_without_a_label": unlabelled,
        "labels_without_a_row": len(labels) - len(seen),
        **{side: len(e.virus) for side, e in out.items()},
    }
    for side in ("train", "validation"):
        if not out[side].virus.any() or out[side].virus.all():
            raise InputError(
                f"{settings.frames}: the {side} side has no example of both classes among the"
                f" features ({counts[side]} rows); label more groups"
            )
    return out, counts


def train_classifier(settings: RecipeSettings, say: Callable[[str], None] = lambda _: None) -> dict:
    """Train, write `classifier.safetensors`, `log.csv`, `metrics.json` and `curve.png`; returns the
    metrics.
    """
    import torch
    from accelerate import Accelerator

    from virnucpro.models.classifier import Classifier
    from virnucpro.training.bundle.network import MLP

    if settings.batch_size < 2:
        raise UsageError("--batch-size: batch norm needs at least 2 rows")
    examples, counts = load_examples(settings)
    say(", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in counts.items()))
    accelerator = Accelerator()
    torch.manual_seed(settings.seed)
    train, held = examples["train"], examples["validation"]
    model = MLP(train.features.shape[1], settings.hidden, dropout=settings.dropout)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, momentum=settings.momentum
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.step, settings.decay)
    share = train.virus.mean()
    weight = torch.tensor(
        [0.5 / (1 - share), 0.5 / share] if settings.balance else [1.0, 1.0], dtype=torch.float32
    )
    loss_of = torch.nn.CrossEntropyLoss(weight=weight.to(accelerator.device))
    data = torch.utils.data.TensorDataset(
        torch.from_numpy(train.features), torch.from_numpy(train.virus.astype(np.int64))
    )
    order = torch.Generator()
    batches = torch.utils.data.DataLoader(
        data,
        settings.batch_size,
        shuffle=True,
        drop_last=len(data) > settings.batch_size,
        generator=order,
    )
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    settings.output.mkdir(parents=True, exist_ok=True)
    state, log = settings.output / "state.pt", []
    first, best = 0, {"loss": float("inf"), "epoch": -1, "tensors": None}
    if settings.resume and state.exists():
        saved = torch.load(state, map_location="cpu", weights_only=True)
        if saved["width"] != train.features.shape[1]:
            raise StoreError(
                f"{state}: is of features of width {saved['width']}, these are"
                f" {train.features.shape[1]} wide"
            )
        accelerator.unwrap_model(model).load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first, best, log = saved["epoch"] + 1, saved["best"], saved["log"]
    for epoch in range(first, settings.epochs):
        if epoch - best["epoch"] > settings.patience and best["epoch"] >= 0:
            break
        # a resumed run draws what an undisturbed one would
        torch.manual_seed(settings.seed * 100_003 + epoch)
        order.manual_seed(settings.seed * 100_003 + epoch)
        model.train()
        total, n = torch.zeros((), device=accelerator.device), 0
        for features, label in batches:
            optimizer.zero_grad()
            loss = loss_of(model(features), label)
            accelerator.backward(loss)
            optimizer.step()
            total, n = total + loss.detach() * len(label), n + len(label)
        schedule.step()
        held_loss, score = validate(
            accelerator.unwrap_model(model), held, loss_of, accelerator.device
        )
        log.append(
            {
                "epoch": epoch + 1,
                "train_loss": total.item() / n,
                "validation_loss": held_loss,
                "validation_auroc": auroc(score, held.virus),
            }
        )
        say(
            "  ".join(
                f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in log[-1].items()
            )
        )
        if held_loss < best["loss"]:
            tensors = {
                k: v.detach().cpu().clone()
                for k, v in accelerator.unwrap_model(model).state_dict().items()
            }
            best = {"loss": held_loss, "epoch": epoch, "tensors": tensors}
        if accelerator.is_main_process:
            torch.save(
                {
                    "model": accelerator.unwrap_model(model).state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "epoch": epoch,
                    "best": best,
                    "log": log,
                    "width": train.features.shape[1],
                },
                state,
            )
    classifier = Classifier({k: v for k, v in best["tensors"].items() if "num_batches" not in k})
    metrics = {
        "settings": {
            k: v for k, v in asdict(settings).items() if isinstance(v, int | float | bool)
        },
        "counts": counts,
        "best_epoch": best["epoch"] + 1,
    }
    for side in ("validation", "test"):
        e = examples[side]
        if len(e.virus) and e.virus.any() and not e.virus.all():
            metrics[side] = frame_metrics(classifier.scores(e.features)[:, 1], e.virus)
    if accelerator.is_main_process:
        classifier.save(settings.output / "classifier.safetensors")
        write_log(settings.output / "log.csv", log)
        (settings.output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        plot_curve(settings.output / "curve.png", log)
    return metrics


def validate(model, held: Examples, loss_of, device) -> tuple[float, np.ndarray]:
    """(loss, margin of each row) without dropout."""
    import torch

    model.eval()
    margins, total = [], 0.0
    with torch.no_grad():
        for at in range(0, len(held.virus), 4096):
            logits = model(torch.from_numpy(held.features[at : at + 4096]).to(device))
            label = torch.from_numpy(held.virus[at : at + 4096].astype(np.int64)).to(device)
            total += loss_of(logits, label).item() * len(label)
            margins.append((logits[:, 1] - logits[:, 0]).cpu().numpy())
    return total / len(held.virus), np.concatenate(margins)


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


def write_log(path: Path, log: list[dict]) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(log[0]))
        writer.writeheader()
        writer.writerows(log)


def plot_curve(path: Path, log: list[dict]) -> None:
    """Losses by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("train_loss", "validation_loss"):
        axes.plot([e["epoch"] for e in log], [e[name] for e in log], label=name.replace("_", " "))
    axes.set(xlabel="epoch", ylabel="cross entropy")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
