#!/usr/bin/env bash
# VirNucPro on several nodes of a SLURM cluster:  sbatch slurm_multi_node.sh sample.fna /shared/sample_virnucpro
#
# Submit from the folder of a VirNucPro checkout that every node sees (run `./run.sh --version` there once, on a node
# with a network, to install it), and adapt the lines below. Results do not depend on the number of nodes or GPUs.
#SBATCH --job-name=virnucpro
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --time=24:00:00
# A warning two minutes before the end or a preemption: VirNucPro writes what is finished and stops. The job is queued
# again, and the same command goes on from there.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log
set -euo pipefail

input=${1:?usage: sbatch slurm_multi_node.sh INPUT OUTPUT_DIR}
output=${2:?usage: sbatch slurm_multi_node.sh INPUT OUTPUT_DIR}
checkout=${SLURM_SUBMIT_DIR:?submit this script with sbatch}

gpus_per_node=${SLURM_GPUS_ON_NODE:-4}
main_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Two jobs that share a node must not share a port.
port=$((20000 + SLURM_JOB_ID % 20000))

# Compute nodes often have no way out: models were downloaded before (virnucpro models download 500).
export HF_HUB_OFFLINE=1
export main_node port gpus_per_node input output checkout

# One task a node; SLURM_NODEID is known only inside the task, so it is read there.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    exec "$checkout/.venv/bin/accelerate" launch \
        --config_file "$checkout/accelerate_configs/multi_node.yaml" \
        --num_machines "$SLURM_JOB_NUM_NODES" \
        --num_processes "$((SLURM_JOB_NUM_NODES * gpus_per_node))" \
        --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$main_node" \
        --main_process_port "$port" \
        -m virnucpro predict "$input" --output-dir "$output" --cache-dir "$output/.cache"
'
