#!/usr/bin/env bash
# Everything that needs a GPU: tests/gpu/run.sh RESULTS [BUNDLE [CHECKPOINT]]
# ROUNDS of the benchmark, 2 by default, take two minutes each.
# What one part cannot do does not keep the other from its turn; RESULTS has what both said.
set -uo pipefail
results=$(realpath -m "$1") bundle=${2:+$(realpath "$2")} checkpoint=${3:+$(realpath "$3")}
cd "$(dirname "$0")/../.." || exit
mkdir -p "$results"
export PATH=/usr/local/cuda/bin:$PATH PYTHONPATH=$PWD PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 ${bundle:+EDGE_CNNLSTM_BUNDLE="$bundle"}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
# The packages there need not be those that are pinned: what they deprecate is no failure.
timeout 240 python3 -m pytest -q -W default --durations 5 -p no:cacheprovider tests/gpu/test_on_gpu.py tests/gpu/test_ort_on_gpu.py 2>&1 | tee "$results/tests.log"
tests=$?
[[ -z $bundle ]] && exit $tests
timeout 340 python3 -m benchmarks device "$bundle" ${checkpoint:+--checkpoint "$checkpoint"} --rounds "${ROUNDS:-2}" \
    -o "$results/device.json" 2>&1 | tee "$results/device.log"
exit $((tests || $?))
