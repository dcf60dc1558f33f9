#!/usr/bin/env bash
# The GPU benchmark, piece by piece (gpu.py says what each is), on a machine that needs no network.
#
#   experiments/benchmarks/gpu.sh [WHEELS [OUT [PIECE...]]]
#   LIMIT=540 experiments/benchmarks/gpu.sh runs/wheels runs/gpu    # begins nothing that would end after 540 seconds
#
# A piece whose OUT/gpu_PIECE.json exists is skipped, so call it again until all are there; one that failed does not
# stop the rest. WHEELS, a folder, holds what the machine's Python lacks; collect it beforehand, where there is network:
#
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d runs/wheels -r experiments/benchmarks/gpu_wheels.txt
#
# PYTHON names another interpreter than python3; OPTIONS are further options of gpu.py, such as --tiny.
set -u
wheels=${1:-runs/wheels} out=${2:-runs/gpu}
shift $(($# < 2 ? $# : 2))
pieces=${*:-rates_breakout singular_values breakout_300 rates_cartpole rates_breakout_conv diagnostics profile rates_hopper deterministic}
python=${PYTHON:-python3} limit=${LIMIT:-1000000}
root=$(cd "$(dirname "$0")/../.." && pwd)

if [ -d "$wheels" ]; then
  site=${TMPDIR:-/tmp}/purejaxppo-wheels-$(id -u)-$(ls "$wheels" | cksum | cut -d " " -f 1)
  if [ ! -d "$site" ]; then
    rm -rf "$site.part"
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site.part" "$wheels"/*.whl || exit 1
    mv "$site.part" "$site"
  fi
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

failed=""
for piece in $pieces; do
  if [ -e "$out/gpu_$piece.json" ]; then
    echo "== $piece: done before"
    continue
  fi
  seconds=$((limit - SECONDS < 480 ? limit - SECONDS : 480))
  if [ "$seconds" -lt 90 ]; then
    echo "== $piece: no time left"
    continue
  fi
  echo "== $piece"
  timeout -k 10 "$seconds" "$python" "$root/experiments/benchmarks/gpu.py" "$piece" --out "$out" \
    --budget $((seconds * 2 / 3)) ${OPTIONS:-} || failed="$failed $piece"
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
