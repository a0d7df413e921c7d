#!/usr/bin/env bash
# Everything there is to measure on a machine with a GPU, in eight minutes, most important first:
#
#   benchmarks/gpu.sh [--images DIR --weights FILE] [--out DIR]    # DIR: train/CLASS and test/CLASS
#   benchmarks/gpu.sh --smoke                                      # the same paths on a CPU, in two minutes
#
# Results are in benchmarks/results/gpu/DEVICE.json and DEVICE.md (or under --out), written after every part.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=".:benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec python3 benchmarks/gpu.py "$@"
