#!/usr/bin/env bash
# `mini`, version 2, again from the labelled genomes: on the GPU 485 + 338 + 560 s of training and a minute of scoring.
#
#   benchmarks/mini_again.sh DATA_DIR WORK BUNDLE      # from the repository; needs `pip install '.[train]'` and diamond
#
# DATA_DIR is described in docs/MODELS.md. Everything but the three trainings and `mini_score.py score` is for the CPU.
set -euo pipefail
data=$1 work=$2 bundle=$3
export PYTHONPATH=.:benchmarks
py() { python -P "benchmarks/$1.py" "${@:2}"; }

py mini_data "$data" "$work"
py mini_folds "$data" "$work" "$work/packed" "$work/packed_more"
py train_mini vocabulary --data "$work"
py train_mini train --data "$work" --out "$work/run1" --dna-share 1 --until 485 --workers 15 --compile
py train_mini train --data "$work" --out "$work/run2" --warm "$work/run1" --until 338 --workers 15 --compile
py mini_campaign --start "$work/run2" --data "$work/packed" --more "$work/packed_more" --out "$work/campaign" --seconds 560
py mini_score score --final "$work/campaign/final" --contigs "$work/contigs.npz" --out "$work/test_scores.npz" --workers 8
py mini_score gather --final "$work/campaign/final" --campaign "$work/campaign" --data "$work" --test "$work/test_scores.npz" --out "$work/run"
py mini_search "$work"
py finish_mini --data "$work" --packed "$work/packed" --run "$work/run" --bundle "$bundle" --hits "$work/search/hits.tsv"
