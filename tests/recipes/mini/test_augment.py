import numpy as np

from recipes.mini.augment import Augmentation, blur, distant_frames, spliced_frames
from virnucpro.sequences.frames import RESIDUE, open_frames
from virnucpro.training.bundle.batches import BatchMaker, BatchRules, BatchShape
from virnucpro.training.bundle.sampling import WindowRules, Windows, WindowSampler
from virnucpro.training.store import (
    CODON_TO_AMINO_ACID,
    INVALID,
    STOP,
    StoreBuilder,
    decode,
    encode,
)

RNG = np.random.default_rng(7)
SENSE = np.flatnonzero(CODON_TO_AMINO_ACID < STOP).astype(np.uint8)


def test_distant_frames_stay_translations_without_stops():
    proteins, nucleotides = [], []
    for n in (30, 31, 166):
        codons = RNG.choice(SENSE, n)
        proteins.append(codons.tobytes().translate(RESIDUE))
        nucleotides.append(
            decode(np.stack([codons >> 4, codons >> 2 & 3, codons & 3], 1).ravel()) + b"A" * (n % 2)
        )
    kept = list(zip(proteins, nucleotides, strict=True))
    distant_frames(proteins, nucleotides, 1.0, 1.0, RNG)
    for protein, bases, (old_protein, old_bases) in zip(proteins, nucleotides, kept, strict=True):
        assert (
            len(protein) == len(old_protein)
            and protein != old_protein
            and len(bases) == len(old_bases)
        )
        codes = encode(bases[: 3 * len(protein)]).reshape(-1, 3)
        assert (codes[:, 0] * 16 + codes[:, 1] * 4 + codes[:, 2]).astype(
            np.uint8
        ).tobytes().translate(RESIDUE) == protein
        assert b"*" not in protein and bases[3 * len(protein) :] == old_bases[3 * len(protein) :]


def test_spliced_frames_begin_as_one_and_end_as_another():
    bases = [bytes(RNG.choice(list(b"ACG"), 3 * n + 1).tolist()) for n in RNG.integers(20, 166, 60)]
    nucleotides = [*bases, b"GCN" * 30]
    proteins = [open_frames(b, [0], [len(b)]).proteins[0] for b in bases] + [b"A"]
    before, after = list(nucleotides), list(nucleotides)
    end = spliced_frames(proteins, after, 0.5, np.random.default_rng(3))
    changed = [i for i in range(61) if after[i] != before[i]]
    assert (
        20 <= len(changed) <= 40
        and 60 not in changed
        and changed == np.flatnonzero(end != np.arange(61)).tolist()
    )
    assert sorted(map(len, after)) == sorted(map(len, before))
    assert [open_frames(n, [0], [len(n)]).proteins[0] for n in after[:60]] == proteins[:60]
    for i in changed:
        assert (
            after[i][:12] == before[i][:12]
            and after[i][-12:] == before[end[i]][-12:]
            and end[end[i]] == i
        )


def test_frames_of_both_classes_have_no_label(tokenizers):
    builder = StoreBuilder()
    for i in range(4):
        builder.add(
            bytes(RNG.choice(list(b"ACGT"), 2000).tolist()),
            f"r{i}",
            i % 2 == 0,
            "viral" if i % 2 == 0 else "fungi",
            f"g{i}",
            "",
            "train",
            "genome",
        )
    rules, how = BatchRules(mask_share=0), Augmentation(spliced=1.0)
    sampler = WindowSampler(builder.build(), WindowRules())
    batch = BatchMaker(
        [(1.0, sampler)], None, tokenizers, BatchShape(64, 0, 384, 40, 40), 128, rules, how
    ).draw(RNG)
    assert 10 < (batch.weight == 0).sum() < 54


def test_n_are_as_many_as_asked_and_a_run_is_one():
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 4, 500).astype(np.uint8)
    single, run = (
        np.flatnonzero(blur(codes, 0.05, as_run, rng) == INVALID) for as_run in (False, True)
    )
    assert len(single) == len(run) == 25 and run[-1] - run[0] == 24 and single[-1] - single[0] > 24
    assert decode(blur(codes, 0.05, True, rng)).count(b"N") == 25 and not (codes == INVALID).any()


def test_shuffled_windows_are_no_virus_and_the_others_stay():
    rng = np.random.default_rng(6)
    end = np.arange(1, 201) * 100
    codes, virus = rng.integers(0, 4, 20_000).astype(np.uint8), np.ones(200, np.uint8)
    windows = Windows(codes.copy(), end - 100, end, virus, np.arange(200))
    out = Augmentation(shuffled=0.3, blurred=0.2).windows(windows, rng)
    changed = (out.codes.reshape(200, 100) != codes.reshape(200, 100)) & (
        out.codes.reshape(200, 100) != INVALID
    )
    assert np.array_equal(changed.any(axis=1), out.virus == 0) and 30 < (out.virus == 0).sum() < 90
    assert 15 < (out.codes.reshape(200, 100) == INVALID).any(axis=1).sum() < 60 and virus.all()
