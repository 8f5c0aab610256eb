"""`predict` over several GPUs, or over several CPU processes where there are not two: the same
answers, failures survived, old work used.

Every run is the command line in processes of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import torch
from command import GOLDEN, GOLDEN_MODEL, environment

EXPECTED = GOLDEN / "expected"
SECONDS_ON_ONE_GPU = 120  # of work, before a speedup is asserted
SPEEDUP = 2.0
# two and a half minutes of a 3B-shaped ESM-2 at 720 a second, the best measured on an H200
GENES = 110_000


class TestMultiGPUIntegration(unittest.TestCase):
    """One process against several, on what the machine has."""

    @classmethod
    def setUpClass(cls):
        cls.home = Path(tempfile.mkdtemp(prefix="virnucpro-"))
        cls.gpus = torch.cuda.device_count()
        cls.several = cls.gpus >= 2
        cls.alone = ["--gpus", "0"] if cls.several else ["--gpus", "none"]
        cls.together = (
            ["--gpus", ",".join(map(str, range(cls.gpus)))]
            if cls.several
            else ["--num-processes", "2"]
        )
        records = (GOLDEN / "input.fa").read_text().split(">")[1:]
        cls.good = cls.home / "good.fa"
        cls.good.write_text("".join(">" + record for record in records[:12]))
        # A frame of 1,400 residues without a stop, longer than ESM-2 takes; only long chunks can
        # hold it.
        cls.long = cls.home / "long.fa"
        cls.long.write_text(">far_too_long\n" + "GCTGAAGACCTG" * 350 + "\n")
        cls.corrupt = cls.home / "corrupt.fa.gz"
        cls.corrupt.write_bytes(b"\x1f\x8b\x08\x00" + bytes(range(64)))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.home, ignore_errors=True)

    def predict(self, *arguments: object) -> tuple[subprocess.CompletedProcess, float]:
        """A finished run of `predict` and its seconds."""
        words, began = [str(word) for word in arguments], time.monotonic()
        options = {"env": environment(self.home), "cwd": self.home, "capture_output": True}
        run = subprocess.run(
            [sys.executable, "-m", "virnucpro", "predict", *words], check=False, **options
        )
        return run, time.monotonic() - began

    def test_single_vs_multi_gpu_equivalence(self):
        seconds = {}
        for name, devices in (("single", self.alone), ("multi", self.together)):
            run, seconds[name] = self.predict(
                self.good,
                "-o",
                name,
                *GOLDEN_MODEL,
                "--precision",
                "fp32",
                "--batch-size",
                "512",
                *devices,
            )
            self.assertEqual(run.returncode, 0, run.stderr.decode())
        single, multi = (
            torch.load(self.home / name / "merged_features.pt", weights_only=True)
            for name in ("single", "multi")
        )
        self.assertEqual(single["ids"], multi["ids"])
        torch.testing.assert_close(multi["data"], single["data"], rtol=1e-5, atol=1e-5)
        self.assertTrue(torch.equal(multi["data"], single["data"]))
        self.assertEqual(
            (self.home / "multi" / "contigs.tsv").read_bytes(),
            (self.home / "single" / "contigs.tsv").read_bytes(),
        )
        where = f"{self.gpus} GPUs" if self.several else "2 CPU processes"
        print(
            f"\none: {seconds['single']:.1f} s, {where}: {seconds['multi']:.1f} s, starting and"
            " loading included"
        )
        if self.gpus >= 4:
            self.assert_speedup()

    def assert_speedup(self):
        """A model of the real size, and enough to do, so that starting does not count."""
        from virnucpro.tools.random_models import random_bundle

        bundle = random_bundle(self.home / "3B", "3B", frame_policy="longest")
        random = np.random.default_rng(0)
        fasta = self.home / "genes.fa"
        with open(fasta, "w") as file:
            for gene in range(GENES):
                codons = random.choice(
                    ["GCT", "GAA", "GAC", "CTG", "AAA", "CGT", "GGC", "ACC", "GTT", "TTC"], size=166
                )
                file.write(f">gene{gene}\n{''.join(codons)}\n")
        seconds = {}
        for name, devices in (
            ("3B on one", ["--gpus", "0"]),
            ("3B on four", ["--gpus", "0,1,2,3"]),
        ):
            run, _ = self.predict(fasta, "-o", name, "--model", bundle, *devices)
            self.assertEqual(run.returncode, 0, run.stderr.decode())
            seconds[name] = json.loads((self.home / name / "run.json").read_text())["seconds"][
                "esm2"
            ]
        one, four = seconds["3B on one"], seconds["3B on four"]
        print(
            f"ESM-2 3B, {GENES:,} genes: one GPU {one:.0f} s, four {four:.0f} s, speedup"
            f" {one / four:.2f}"
        )
        self.assertGreaterEqual(one, SECONDS_ON_ONE_GPU)
        self.assertGreater(one / four, SPEEDUP)

    def test_failed_file_recovery(self):
        run, _ = self.predict(
            self.good,
            self.corrupt,
            self.long,
            "-o",
            "recovery",
            *GOLDEN_MODEL,
            "--chunk-length",
            "6000",
            *self.together,
        )
        self.assertEqual(run.returncode, 2, run.stderr.decode())
        self.assertNotIn("Traceback", run.stderr.decode())
        failed = [
            line.split("|")
            for line in (self.home / "recovery" / "failed_files.txt").read_text().splitlines()
        ]
        self.assertEqual(
            [(Path(path).name, stage) for path, stage, _ in failed],
            [("corrupt.fa.gz", "read"), ("long.fa", "embed")],
        )
        self.assertIn("record far_too_long", failed[1][2])
        self.assertIn("1,022 residues", failed[1][2])
        run, _ = self.predict(
            self.good, "-o", "good alone", *GOLDEN_MODEL, "--chunk-length", "6000", *self.alone
        )
        self.assertEqual(run.returncode, 0, run.stderr.decode())
        alone = torch.load(self.home / "good alone" / "merged_features.pt", weights_only=True)
        found = torch.load(self.home / "recovery" / "merged_features.pt", weights_only=True)
        rows = len(alone["ids"])
        self.assertEqual(found["ids"][:rows], alone["ids"])
        self.assertTrue(torch.equal(found["data"][:rows], alone["data"]))
        self.assertNotIn("far_too_long_chunk_1F1", found["ids"])

    def test_checkpoint_compatibility(self):
        out = self.home / "old"
        for folder in ("nucleotide", "protein"):
            (out / f"input_{folder}").mkdir(parents=True)
        old = torch.load(EXPECTED / "output_1_ESM.pt", weights_only=True)
        # the original was stopped on its way
        half = {"proteins": old["proteins"][::2], "data": old["data"][::2]}
        torch.save(half, out / "input_protein" / "output_1_ESM.pt")
        shutil.copy(EXPECTED / "frames_protein.faa", out / "input_protein" / "output_1.fa")
        shutil.copy(
            EXPECTED / "output_1_DNABERT_S.pt", out / "input_nucleotide" / "output_1_DNABERT_S.pt"
        )
        shutil.copy(EXPECTED / "frames_nucleotide.fa", out / "input_nucleotide" / "output_1.fa")
        run, _ = self.predict(
            GOLDEN / "input.fa",
            "-o",
            out,
            *GOLDEN_MODEL,
            "--precision",
            "fp32",
            "--resume",
            *self.together,
        )
        self.assertEqual(run.returncode, 0, run.stderr.decode())
        facts = json.loads((out / "run.json").read_text())["embedding"]
        self.assertEqual(facts["dnabert_s"]["taken_up"], facts["dnabert_s"]["unique"])
        self.assertGreater(facts["esm2"]["taken_up"], 60)
        self.assertEqual(facts["esm2"]["taken_up"] + facts["esm2"]["rows"], facts["esm2"]["unique"])
        expected = torch.load(EXPECTED / "output_1_merged.pt", weights_only=True)
        found = torch.load(out / "merged_features.pt", weights_only=True)
        self.assertEqual(found["ids"], list(expected["ids"]))
        np.testing.assert_allclose(
            found["data"].numpy(), np.asarray(expected["data"], dtype=np.float32), rtol=0, atol=2e-5
        )


if __name__ == "__main__":
    unittest.main()
