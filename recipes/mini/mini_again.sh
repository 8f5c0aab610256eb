#!/usr/bin/env bash
# `mini` from the labelled genomes, by the recipe of the version that ships (STUDY.md).
#
# Version 8, from nothing:
#
#   recipes/mini/mini_again.sh data DATA_DIR WORK           # CPU: stores, tokenizers, folds, what travels to the GPU
#   recipes/mini/mini_again.sh gpu WORK                     # one GPU, 16 cores: 1,320 s, whatever happens
#   recipes/mini/mini_again.sh search WORK                  # CPU, if you like: the protein search that `finish` compares mini with
#   recipes/mini/mini_again.sh finish WORK BUNDLE           # CPU: calibration, the test side, the bundle, BUNDLE.json
#
# Version 9, from version 8 (EIGHT: its bundle), all groups dealt anew:
#
#   recipes/mini/mini_again.sh deal DATA_DIR WORK           # CPU: units, folds, contigs, three parts of under 33 MiB for the GPU
#   recipes/mini/mini_again.sh warm WORK EIGHT [options]    # one GPU, 720 s: two networks without a fold each, and their mean
#   recipes/mini/mini_again.sh ship WORK BUNDLE [HITS]      # CPU: figures, bundle, weights of evidence from HITS (evidence_hits.py), card
#
# Networks of five folds from nothing, which were not better (STUDY.md):
#
#   recipes/mini/mini_again.sh stages WORK EIGHT [options]  # one GPU; goes on after the last stage that left its files in WORK/out
#   recipes/mini/mini_again.sh report WORK                  # CPU: WORK/mini_folds.json, and WORK/oof.npz, the scores that no training saw
#
# From the repository; needs `pip install '.[train]'`, and diamond for `search`. DATA_DIR is described in STUDY.md. What follows
# WORK in `gpu` goes to campaign.py. Only WORK/packed and WORK/packed_more need to be where the GPU is, only WORK/campaign
# need come back.
set -euo pipefail
stage=$1 && shift
export PYTHONPATH=. TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
py() { "${PYTHON:-python3}" -m "recipes.mini.$1" "${@:2}"; }

case $stage in
data)
    data=$1 work=$2
    py data "$data" "$work"
    py windows "$work"
    py folds "$data" "$work" "$work/packed" "$work/packed_more"
    ;;
gpu)
    work=$1 && shift
    py campaign --data "$work/packed" --more "$work/packed_more" --out "$work/campaign" "$@"
    ;;
search)
    py search "$1"
    ;;
finish)
    work=$1 bundle=${2%/}
    py gather "$work/campaign" "$work" "$work/run"
    hits=$work/search/hits.tsv
    [ -e "$hits" ] || hits=
    py finish --data "$work" --packed "$work/packed" --run "$work/run" --bundle "$bundle" ${hits:+--hits "$hits"} --results "$bundle.json"
    ;;
deal)
    data=$1 work=$2
    py records "$data" "$work"
    py deal "$work"
    py pack "$work" "$work/packed"
    ;;
stages)
    work=$1 eight=$2 && shift 2
    py stages "$work/packed" "$work/out" --eight "$eight" "$@"
    ;;
report)
    py oof "$1" "$1/packed" "$1/out" "$1/oof.npz"
    py fold_report "$1" "$1/packed" "$1/out" "$1/mini_folds.json"
    ;;
warm)
    work=$1 eight=$2 && shift 2
    py warm "$work/packed" "$work/out" --eight "$eight" "$@"
    ;;
ship)
    work=$1 bundle=$2
    py warm_report "$work" "$work/packed" "$work/out" "$work/mini_warm.json" "$work/oof.npz"
    py ship "$work/out" "$work/packed" "$work/mini_warm.json" "$bundle"
    if [ -n "${3:-}" ]; then
        py evidence_fit "$work/oof.npz" "$3" "$bundle" "$work/mini_evidence.json"
        py card "$work/mini_warm.json" "$work/mini_evidence.json" "$bundle"
    fi
    ;;
*)
    echo "mini_again.sh: $stage is no stage; use data, gpu, search or finish; deal, warm or ship; stages or report" >&2
    exit 2
    ;;
esac
