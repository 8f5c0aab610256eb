"""What a campaign left, put where finish.py looks for it.

    python -m recipes.mini.gather CAMPAIGN work run [PLACE]        # with
    PYTHONPATH=.

`run` gets the parts of the network and scores.npz, in which contigs are rows of work/contigs.npz
(with N: of `blurred_sets` of their side). The classifier gets a share of the classifier of proteins
alone, as two more hidden units (0: none); it is the one with the highest AUROC on 500-base
validation windows, and is printed with what the others came to. PLACE: 2 for the second choice.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from recipes.mini.finish import columns_of
from recipes.mini.windows import POLICY
from virnucpro.settings import FRAME_POLICIES
from virnucpro.training.bundle.scoring import FrameScores
from virnucpro.training.metrics import auroc, recall_at
from virnucpro.training.store import Store

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the logit of proteins alone


def split_parts(final: Path, place: int, out: Path) -> None:
    """The four `.safetensors` of one network, as `networks.load_parts` reads them."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(final / f"{place}-esm2.safetensors", out / "esm2.safetensors")
    rest = load_file(final / f"{place}-rest.safetensors")
    for part in ("dnabert_s", "classifier", "heads"):
        tensors = {k.split("/", 1)[1]: v for k, v in rest.items() if k.startswith(part + "/")}
        save_file(tensors, out / f"{part}.safetensors", metadata={"format": "pt"})


def gather_scores(final: Path, place: int, contigs: Store) -> dict[str, np.ndarray]:
    """Scores of both sides, `stretches_...`, `longest_...`, `open_...` and `blurred-SIDE_...`, in
    the order of contig, chunk and frame.
    """
    together: dict = {}
    for side in ("validation", "test"):
        # where the side's contigs come from
        rows = np.flatnonzero(contigs.labels.split[contigs.record] == side)
        with np.load(final / f"{place}-{side}.npz") as z:
            for key in (k for k in z.files if k != "run"):
                if key.startswith("blurred_"):
                    together[key.replace("blurred", f"blurred-{side}")] = z[key]
                    continue
                column = rows[z[key]] if key.endswith("_contig") else z[key]
                together[key] = (
                    np.concatenate([together[key], column]) if key in together else column
                )
    for policy in (p for p in FRAME_POLICIES if f"{p}_contig" in together):
        order = np.lexsort([together[f"{policy}_{k}"] for k in ("frame", "chunk", "contig")])
        together |= {k: v[order] for k, v in together.items() if k.startswith(policy)}
    return together


def with_protein_head(
    classifier: dict, weight: torch.Tensor, bias: torch.Tensor, share: float
) -> dict:
    """The classifier whose logit (virus minus others) has `share` of the logit `weight` [2, width],
    `bias` [2] of the protein's vector more: relu(x) - relu(-x) is x, so two hidden units pass it
    through unchanged.
    """
    protein, zeros = (weight[1] - weight[0]), classifier["hidden_layer.weight"].new_zeros
    # nucleotides first
    line = torch.cat([zeros(classifier["hidden_layer.weight"].shape[1] - len(protein)), protein])
    offset = bias[1] - bias[0]
    more = {
        "hidden_layer.weight": torch.stack([line, -line]),
        "hidden_layer.bias": torch.stack([offset, -offset]),
        "bn1.weight": zeros(2) + 1,
        "bn1.bias": zeros(2),
        "bn1.running_mean": zeros(2),
        "bn1.running_var": zeros(2) + 1 - 1e-5,
    }
    out = {k: torch.cat([classifier[k], v]) for k, v in more.items()}
    half = share / 2
    out["output_layer.weight"] = torch.cat(
        [classifier["output_layer.weight"], torch.tensor([[-half, half], [half, -half]])], dim=1
    )
    return {**classifier, **out}


def choose_share(scores: dict, contigs: Store) -> tuple[float, dict]:
    """The best of SHARES, and AUROC and recall at 5 % false positives of each, on 500-base
    validation windows.
    """
    lab = contigs.labels
    rows, found = np.flatnonzero((lab.split == "validation") & (lab.kind == "contig500")), {}
    for share in SHARES:
        frames = FrameScores(*(scores[f"{POLICY}_{f}"] for f in FrameScores._fields))
        score = columns_of(
            frames._replace(logit=frames.logit + share * frames.esm2_logit), contigs
        )[0][rows]
        virus = lab.virus[rows].astype(bool)
        found[share] = {
            "auroc": round(auroc(score, virus), 4),
            "recall_at_5pct": round(recall_at(score, virus, 0.05), 4),
        }
    return max(found, key=lambda share: found[share]["auroc"]), found


def share_proteins(out: Path, scores: dict, contigs: Store) -> None:
    """Put the best share of the proteins' classifier into the classifier in `out` and into
    `scores`, and write these.
    """
    share, found = choose_share(scores, contigs)
    heads, classifier = (
        load_file(out / "heads.safetensors"),
        load_file(out / "classifier.safetensors"),
    )
    if share:
        classifier = with_protein_head(
            classifier, heads["esm2_only.weight"], heads["esm2_only.bias"], share
        )
        save_file(
            {k: v.contiguous() for k, v in classifier.items()},
            out / "classifier.safetensors",
            metadata={"format": "pt"},
        )
        for key in [
            k
            for k in scores
            if k.endswith("_logit") and not k.endswith(("esm2_logit", "dnabert_s_logit"))
        ]:
            scores[key] = (
                scores[key] + np.float32(share) * scores[key.replace("_logit", "_esm2_logit")]
            )
    (out / "protein_share.json").write_text(
        json.dumps({"chosen": share, "validation": found}) + "\n"
    )
    print(f"share of the proteins' classifier: {share}; {found}")
    np.savez_compressed(out / "scores.npz", **scores)


def main(campaign: Path, work: Path, out: Path, place: int = 1) -> None:
    """Write the parts, the scores, the log and the scores of groups."""
    split_parts(campaign / "final", place, out)
    contigs = Store.load(work / "contigs.npz")
    share_proteins(out, gather_scores(campaign / "final", place, contigs), contigs)
    for name in ("log.jsonl", "groups.npz"):
        if (campaign / name).exists():
            shutil.copyfile(campaign / name, out / name)


if __name__ == "__main__":
    campaign_at, work_at, out_at = map(Path, sys.argv[1:4])
    main(campaign_at, work_at, out_at, *map(int, sys.argv[4:]))
