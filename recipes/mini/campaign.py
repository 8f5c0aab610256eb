"""Everything of `mini` that wants a GPU: one unattended run from nothing to scored networks.

    export PYTHONPATH=.
    python -m recipes.mini.campaign --data PACKED [--more PACKED_MORE] --out OUT

PACKED and PACKED_MORE come from folds.py. The lane `main` trains two networks from nothing
(`TEACHERS`) and one that learns their mean answers (`STUDENT`), each kept as it was best on the
validation groups; OUT/final gets the best network, its validation scores and then its scores of the
test contigs, which are not evaluated here. The lane `groups` (`--lanes groups`, or both lanes)
is described in groups.py. Results are written as they come; a lane that dies is started again
and goes on after its last result. OUT/log.jsonl has a line an event.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from recipes.mini.contig_sets import blurred_sets
from recipes.mini.groups import groups
from recipes.mini.lane import Lane, Recipe, figures
from recipes.mini.teachers import Teachers
from recipes.mini.windows import POLICY
from virnucpro.settings import FRAME_POLICIES
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.save import half_parts
from virnucpro.training.store import Store

# of the two encoders ESM-2 learned less and lost less on groups not seen (STUDY.md), so its
# own classifier counts three times
BASE = Recipe(
    rate=7e-4,
    esm2_rate=1.0,
    dna_rate=1.0,
    protein_weight=3.0,
    markers=0.45,
    group_exponent=0.4,
    distant=0.3,
    full_share=0.75,
    mask_share=0.6,
    depth=0.05,
    hard=True,
    shuffled=0.06,
    blurred=0.05,
)
# each from nothing; what one of them learns by chance the other does not
TEACHER = replace(BASE, dna_share=0.2, token_weight=0.5, decay=0.3)
TEACHERS = {"one": replace(TEACHER, seed=8), "two": replace(TEACHER, seed=6)}
# begins as the better teacher and learns the answers of both, also to what has no label: frames put
# together from two classes
STUDENT = replace(
    BASE,
    rate=5e-4,
    dna_share=0.0,
    decay=0.1,
    distant=0.4,
    mask_share=0.3,
    spliced=0.3,
    label_weight=0.3,
    seed=7,
)
TEACHER_SHARE, STUDENT_SHARE = 0.344, 0.262  # of the time
KEEP_BACK = 100.0  # seconds for the last scores and files
MATTERS = "500"  # AUROC of these contigs of the validation side decides


class Main:
    """The teachers and their student; every state is kept on disk."""

    def __init__(self, lane: Lane):
        self.lane, self.out = lane, lane.options.out
        (self.out / "runs").mkdir(parents=True, exist_ok=True)
        self.fragments = lane.load("proteins")
        kind = lane.validation.labels.kind[lane.validation.record]
        self.watched = self.kept_batches(np.flatnonzero(kind == "contig500"))
        self.judged = self.kept_batches(
            np.flatnonzero(
                np.isin(
                    kind,
                    ("contig500", "contig3000", "shuffled500", "shuffled3000", "transposon3000"),
                )
            )
        )
        self.done: dict[str, dict] = {}
        lane.say(
            "ready",
            genomes=len(lane.genomes),
            markers=len(lane.markers),
            fragments=len(self.fragments),
            folders=len(lane.folders),
        )

    def kept_batches(self, rows: np.ndarray) -> tuple[np.ndarray, list]:
        """The contigs and their batches, made once."""
        rows = self.lane.some(rows)
        return rows, list(self.lane.contig_batches(self.lane.validation, rows))

    def measure(self, rows_batches) -> dict:
        """Figures on such batches."""
        rows, batches = rows_batches
        return figures(self.lane.validation, self.lane.score(batches), rows)

    def value(self, name: str) -> float:
        """By which runs are compared."""
        return self.done[name]["validation"][MATTERS]["auroc"]

    def keep(self, name: str, result: dict) -> None:
        """The network's state and its result, on disk."""
        folder = self.out / "runs" / name
        folder.mkdir(exist_ok=True)
        torch.save(self.lane.state(), folder / "state.part")
        (folder / "state.part").replace(folder / "state.pt")
        (folder / "result.json").write_text(json.dumps(result))
        self.done[name] = result

    def recall(self) -> None:
        """Results of an earlier process."""
        for file in sorted((self.out / "runs").glob("*/result.json")):
            if (file.parent / "state.pt").exists():
                self.done[file.parent.name] = json.loads(file.read_text())

    def begin(self, start: str, seed: int = 0) -> None:
        """Put the weights of a run into the network, or random ones."""
        if start:
            self.lane.network.load_state_dict(
                torch.load(
                    self.out / "runs" / start / "state.pt", map_location="cpu", weights_only=True
                )
            )
        else:
            torch.manual_seed(seed)
            self.lane.rebuild()

    def run(self, name: str, recipe: Recipe, seconds: float) -> None:
        """Train one network and keep it; so is the best on the way. A failure is told and
        forgotten.
        """
        lane, peak = self.lane, f"{name}-peak"
        if name in self.done or seconds < 1:
            return
        best = self.value(peak) if peak in self.done else 0.0
        try:
            self.begin(recipe.start, recipe.seed)
            maker = lane.maker(recipe, lane.genomes, lane.markers, self.fragments)

            def report(progress, _live, mean):
                nonlocal best
                facts = {
                    "step": progress.step,
                    "frames": progress.frames,
                    "seconds": round(progress.seconds, 1),
                    "rate": round(progress.rate),
                    **{k: round(v, 4) for k, v in progress.parts.items()},
                }
                if progress.step > 10:
                    mean.swap()
                    facts["validation"] = self.measure(self.watched)
                    if facts["validation"][MATTERS]["auroc"] > best:
                        best = facts["validation"][MATTERS]["auroc"]
                        self.keep(
                            peak,
                            {
                                "frames": progress.frames,
                                "recipe": asdict(recipe),
                                "validation": facts["validation"],
                            },
                        )
                    mean.swap()
                lane.say("train", run=name, **facts)

            took = lane.train(maker, recipe, seconds, report=report, teachers=self.teachers(recipe))
            # as it was trained: plain windows cost 0.001 of AUROC
            settlers = lane.settling(maker, lane.options.settle)
            for kept, facts in (
                (name, {"took": took, "recipe": asdict(recipe)}),
                (peak, self.done.get(peak, {})),
            ):
                if kept == peak and peak in self.done:
                    self.begin(peak)
                lane.settle(settlers)
                result = {**facts, "validation": self.measure(self.judged)}
                self.keep(kept, result)
                lane.say("run", run=kept, **result)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            lane.say("run failed", run=name, error=repr(error)[:300])
            if "CUDA" in repr(error):
                raise

    def teachers(self, recipe: Recipe) -> Teachers | None:
        """The networks that teach, if any do."""
        lane, networks = self.lane, []
        for name in recipe.teachers:
            networks.append(Network(lane.network.shape).to(lane.device))
            networks[-1].load_state_dict(
                torch.load(
                    self.out / "runs" / name / "state.pt", map_location="cpu", weights_only=True
                )
            )
        return Teachers(networks, lane.encoders is not None) if networks else None

    def finish(self, name: str, place: int) -> None:
        """Files of one network: OUT/final/N-esm2, N-rest `.safetensors`, N-validation.npz,
        N-test.npz (scores).
        """
        lane, final = self.lane, self.out / "final"
        final.mkdir(exist_ok=True)
        self.begin(name)
        parts = half_parts(lane.network)
        rest = {
            f"{p}/{k}": v for p in ("dnabert_s", "classifier", "heads") for k, v in parts[p].items()
        }
        for file, tensors in (("esm2", parts["esm2"]), ("rest", rest)):
            save_file(tensors, final / "part", metadata={"format": "pt", "run": name})
            (final / "part").replace(final / f"{place}-{file}.safetensors")
        lane.say("saved", run=name, place=place)
        lane.network.round_to_half()
        torch.backends.cuda.matmul.allow_tf32 = False
        test = lane.options.data / "test.npz"
        stores = {"validation": lane.validation} | (
            {"test": Store.load(test)} if test.exists() else {}
        )
        for side, store in stores.items():
            everything = {"run": np.array(name)}
            blurred, short = (
                blurred_sets(store),
                np.flatnonzero(store.labels.kind[store.record] == "contig500"),
            )
            sets = [
                (POLICY, store, np.arange(len(store))),
                ("blurred", blurred, np.arange(len(blurred))),
            ]
            sets += (
                [("longest", store, short), ("open", store, short)] if side == "validation" else []
            )
            for prefix, contigs, rows in sets:
                policy = prefix if prefix in FRAME_POLICIES else POLICY
                scores = lane.score(
                    lane.contig_batches(contigs, lane.some(rows), policy), exact=True
                )
                everything |= {f"{prefix}_{k}": v for k, v in scores._asdict().items()}
            np.savez_compressed(final / "part.npz", **everything)  # type: ignore[arg-type]
            (final / "part.npz").replace(final / f"{place}-{side}.npz")
        lane.say("finished", run=name, place=place)

    def better(self, name: str) -> str:
        """A run as it ended, or as it was best on the way."""
        return max((n for n in (name, f"{name}-peak") if n in self.done), key=self.value)

    def work(self) -> None:
        """Teachers, student, and the files of the best."""
        lane = self.lane
        self.recall()
        total = (lane.options.deadline - lane.options.began) - KEEP_BACK

        def train(name: str, recipe: Recipe, seconds: float) -> None:
            # of a process that died
            start = f"{name}-peak" if f"{name}-peak" in self.done else recipe.start
            self.run(name, replace(recipe, start=start), min(seconds, lane.left - KEEP_BACK))

        for name, recipe in TEACHERS.items():
            train(name, recipe, TEACHER_SHARE * total)
        teachers = tuple(self.better(n) for n in TEACHERS if n in self.done)
        if len(teachers) == len(TEACHERS):
            start = max(teachers, key=self.value)
            train(
                "student", replace(STUDENT, start=start, teachers=teachers), STUDENT_SHARE * total
            )
        ranked = sorted(self.done, key=self.value, reverse=True)
        lane.say("ranked", runs={n: self.value(n) for n in ranked})
        for place, name in enumerate(ranked[:2], start=1):
            if place == 1 or lane.left > 0.6 * KEEP_BACK:
                self.finish(name, place)


def run_lane(options: argparse.Namespace) -> None:
    """One lane, in this process."""
    lane = None
    try:
        if options.lane == "main":
            lane = Lane(options, "main", options.workers)
            Main(lane).work()
        else:
            # the last scores of `main` have the GPU to themselves
            options.deadline = min(
                options.deadline - 0.8 * KEEP_BACK, options.began + options.groups_seconds
            )
            lane = Lane(options, "groups", max(options.workers - 2, 1))
            groups(lane)
        lane.say("lane done")
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        if lane is not None:
            lane.say("lane failed", error=repr(error)[:300])
        raise SystemExit(1) from error


def supervise(options: argparse.Namespace) -> None:
    """Start the lanes; start one again that died while there is time; end them at the deadline."""
    running: dict[str, subprocess.Popen] = {}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # of two, each lane has one
    starts = dict.fromkeys(options.lanes, 0)

    def start(name: str) -> None:
        command = [
            sys.executable,
            "-P",
            __file__,
            *sys.argv[1:],
            "--lane",
            name,
            "--began",
            str(options.began),
            "--deadline",
            str(options.deadline),
        ]
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[-1 if name == "main" else 0]} if len(gpus) > 1 else {}
        with (options.out / f"{name}.txt").open("a") as handle:
            running[name] = subprocess.Popen(
                command, stdout=handle, stderr=subprocess.STDOUT, env=os.environ | gpu
            )
        starts[name] += 1

    for name in starts:
        start(name)
    while running and time.time() < options.deadline + 10:
        time.sleep(0.5)
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode and starts[name] < 4 and options.deadline - time.time() > 40:
                start(name)
    for process in running.values():
        process.terminate()
    print(
        json.dumps(
            {"at": round(time.time() - options.began, 1), "event": "over", "ended": sorted(running)}
        ),
        flush=True,
    )


def main() -> None:
    """Supervise, or be one of the lanes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1320.0)
    parser.add_argument(
        "--groups-seconds", type=float, default=float("inf"), help="end the lane `groups` so early"
    )
    parser.add_argument(
        "--lanes",
        nargs="+",
        choices=("main", "groups"),
        default=["main"],
        help="side by side, a GPU each",
    )
    parser.add_argument(
        "--no-folds", action="store_true", help="the lane `groups` makes the learning curve only"
    )
    parser.add_argument(
        "--workers", type=int, default=14, help="loader processes of `main`; `groups` has two fewer"
    )
    parser.add_argument("--report", type=float, default=30.0)
    parser.add_argument(
        "--settle", type=int, default=100, help="batches for the batch-norm statistics"
    )
    parser.add_argument(
        "--warm-up", type=int, default=75, help="steps to measure the rate of `groups`"
    )
    parser.add_argument(
        "--unit-steps",
        type=int,
        default=400,
        help="of a fold, at most; the learning curve has twice as many",
    )
    parser.add_argument(
        "--overhead",
        type=float,
        default=9.0,
        help="seconds a network of `groups` needs in addition to training",
    )
    parser.add_argument(
        "--few", type=int, default=0, help="score only about this many contigs (a trial)"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny network (a trial on a CPU)")
    parser.add_argument("--lane", choices=("main", "groups"), help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.lane:
        run_lane(options)
    else:
        options.began = time.time()
        options.deadline = options.began + options.seconds
        supervise(options)


if __name__ == "__main__":
    main()
