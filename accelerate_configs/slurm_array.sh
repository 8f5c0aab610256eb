#!/usr/bin/env bash
# VirNucPro as an array of SLURM jobs, one GPU each, joined at the end. No job waits for another, none needs a network.
#
#   shards=64 files="sample.fna /shared/sample_virnucpro"
#   job=$(sbatch --parsable --array=1-$shards slurm_array.sh $files $shards)
#   sbatch --gpus=0 --dependency=afterok:$job slurm_array.sh $files $shards
#
# The second call, which is no array, joins the shards: its result is that of one run, to the last byte. A shard that
# failed is run again by its number (--array=7); one shard (--array=1-1 and 1 at the end) is a job on one GPU.
# Submit from the folder of a VirNucPro checkout that every node sees, and adapt the lines below.
#SBATCH --job-name=virnucpro
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
# A warning two minutes before the end or a preemption: what is finished is written, and the requeued job goes on there.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%A_%a.log
set -euo pipefail

usage="usage: sbatch [--array=1-SHARDS] slurm_array.sh INPUT OUTPUT_DIR SHARDS"
input=${1:?$usage}
output=${2:?$usage}
shards=${3:?$usage}
PATH="${SLURM_SUBMIT_DIR:?submit this script with sbatch}/.venv/bin:$PATH"

# Compute nodes often have no way out: models were downloaded before (virnucpro models download 500).
export HF_HUB_OFFLINE=1

if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    # --partial-ok: a record that fails is no reason to keep the others from being joined; merge says which failed
    exec virnucpro predict "$input" --shard "$SLURM_ARRAY_TASK_ID/$shards" --partial-ok \
        --output-dir "$output/shard_$SLURM_ARRAY_TASK_ID" --cache-dir "$output/.cache"
fi
folders=()
for ((number = 1; number <= shards; number++)); do
    folders+=("$output/shard_$number")
done
exec virnucpro merge "${folders[@]}" --output-dir "$output/joined"
