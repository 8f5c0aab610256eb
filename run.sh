#!/usr/bin/env bash
# VirNucPro on a machine that has nothing but Python (a GPU is used when there is one).
#
#   ./run.sh                 install once into .venv, then call the sequences of examples/ with the shipped model
#   ./run.sh test [ARG ...]  install the test tools too, then ruff, mypy and pytest (ARG ... goes to pytest)
#   ./run.sh ARG ...         the same as `virnucpro ARG ...`
#
# PYTHON=/path/to/python picks the interpreter of a new .venv. Nothing outside this folder and the output is changed.
set -euo pipefail

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$repo/.venv
python=$venv/bin/python
log=$venv/install.log

say() { printf '%s\n' "$*" >&2; }
fail() { say "run.sh: $*"; exit 1; }

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if is_recent "$candidate"; then printf '%s' "$candidate"; return; fi
        if [ "$candidate" = "${PYTHON:-}" ]; then fail "PYTHON=$PYTHON is not a Python 3.10 or newer; name another"; fi
    done
    fail "no Python 3.10 or newer found; install one, or name it: PYTHON=/path/to/python ./run.sh"
}

# One sum over everything the installation depends on; the folder is part of it because a .venv cannot be moved.
wanted_sum() {
    { printf '%s\n' "$venv" "$1"; cat "$repo/requirements.txt" "$repo/pyproject.toml"; } |
        "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

# The last line in which pip says what went wrong, or its last line.
reason() { { grep -E '^ *(ERROR|error):' "$log" || cat "$log"; } 2>/dev/null | tail -n 1 | cut -c 1-200; }

# install run|test: .venv with requirements.txt and this package, "test" with the test tools as well.
install() {
    local kind=$1 sum start=$SECONDS base
    if ! is_recent "$python"; then
        [ ! -e "$venv" ] || is_ours || fail "$venv is no Python 3.10 environment; remove it and run this again"
        base=$(find_python)
        "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$base lacks the venv module; on Debian or Ubuntu: apt install python3-venv"
        "$base" -m venv --clear "$venv" 2>/dev/null ||
            fail "cannot create $venv; make $repo writable, or copy it to a place that is"
    fi
    sum=$(wanted_sum "$kind")
    grep -qsxF "$sum" "$venv/installed-$kind" && return
    [ -w "$venv" ] || fail "cannot write to $venv; make it writable, or copy $repo to a place that is"
    say "Installing into $venv (once; a few minutes, most of it PyTorch) ..."
    # requirements.txt pins torch: it is named in the same call as everything that asks for a range of it.
    local pip=("$python" -m pip install --quiet --no-input --disable-pip-version-check --retries 2)
    {
        "${pip[@]}" -r "$repo/requirements.txt" &&
            if [ "$kind" = test ]; then
                "${pip[@]}" -r "$repo/requirements.txt" -e "${repo}[test,workflows,docs]"
            else
                "${pip[@]}" --no-deps -e "$repo"
            fi
    } >"$log" 2>&1 || fail "installation failed (is the network there?): $(reason) - whole log: $log"
    printf '%s\n' "$sum" >"$venv/installed-$kind"
    say "Installed in $((SECONDS - start)) s."
}

# A half-made environment of an earlier, interrupted run may be replaced; a foreign folder may not.
is_ours() { [ -f "$venv/pyvenv.cfg" ] || [ -z "$(ls -A "$venv" 2>/dev/null)" ]; }

# Caches go to $HOME unless it cannot be written to; then they stay in .venv, for this run only.
keep_caches_writable() {
    if [ -z "${HF_HOME:-}${HF_DATASETS_CACHE:-}" ] && ! mkdir -p "${HOME:-/nonexistent}/.cache/huggingface" 2>/dev/null; then
        say "run.sh: ${HOME:-HOME} cannot be written to; caches go to $venv/cache"
        export HF_HOME=$venv/cache
    fi
}

cores() { "$python" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())'; }

# Sets launch=(...): an explicit configuration, so that nobody's ~/.cache/huggingface/accelerate changes the run.
choose_launch() {
    local gpus=0
    if command -v nvidia-smi >/dev/null 2>&1; then
        gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null) || gpus=0
    fi
    local config=$repo/accelerate_configs/cpu.yaml count=1
    if [ "$gpus" -eq 1 ]; then config=$repo/accelerate_configs/single_gpu.yaml; fi
    if [ "$gpus" -gt 1 ]; then config=$repo/accelerate_configs/multi_gpu.yaml count=$gpus; fi
    # Left unset, accelerate would choose the number of threads and say so in four lines.
    local threads=$(($(cores) / count))
    launch=("$venv/bin/accelerate" launch --quiet --config_file "$config" --num_processes "$count"
        --num_cpu_threads_per_process "$((threads > 0 ? threads : 1))" -m virnucpro)
}

example() {
    local out=${VIRNUCPRO_EXAMPLE_OUT:-example_virnucpro}
    mkdir -p "$out" 2>/dev/null || fail "cannot create $out here; go to a folder that can be written to, or set VIRNUCPRO_EXAMPLE_OUT"
    choose_launch
    "${launch[@]}" predict "$repo"/examples/*.fna.gz --model mini --output-dir "$out" --force
    print_calls "$out/contigs.tsv"
    printf '\nAll results: %s\n' "$(cd "$out" && pwd)"
}

# Every sequence with its call; columns are found by their names in the table's header.
print_calls() {
    awk -F '\t' '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i
                  printf "\n%-32s %7s %7s %12s  %-11s %s\n", "every sequence", "length", "chunks", "probability", "call", "note"
                  next }
        { printf "%-32s %7s %7s %12s  %-11s %s\n", substr($at["seq_name"], 1, 32), $at["length"], $at["n_chunks"],
              $at["virus_probability"], $at["call"], $at["note"] == "NA" ? "" : $at["note"] }' "$1"
}

case ${1:-} in
    "")
        install run
        keep_caches_writable
        example
        ;;
    test)
        shift
        install test
        keep_caches_writable
        cd "$repo"
        failed=0
        "$python" -m ruff format --check . || failed=1
        "$python" -m ruff check . || failed=1
        "$python" -m mypy || failed=1
        "$python" -m pytest "$@" || failed=$?
        exit "$failed"
        ;;
    *)
        install run
        keep_caches_writable
        exec "$venv/bin/virnucpro" "$@"
        ;;
esac
