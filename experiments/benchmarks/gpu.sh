#!/usr/bin/env bash
# The GPU benchmark (gpu.py says what each piece is), on a machine that needs no network. Pieces run side by side: they
# compile together, on as many cores as there are, and take turns on the GPU. About eight minutes on an H100 with 16 cores.
#
#   experiments/benchmarks/gpu.sh [WHEELS [OUT [PIECE...]]]
#   LIMIT=540 experiments/benchmarks/gpu.sh runs/wheels runs/gpu    # stops whatever runs after 540 seconds
#
# A piece whose OUT/gpu_PIECE.json exists is skipped, so call it again until all are there; one that failed does not
# stop the rest, and its rows so far are in OUT/gpu_PIECE.json.part, its words in OUT/PIECE.log. WHEELS, a folder, holds
# what the machine's Python lacks; collect it beforehand, where there is network:
#
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d runs/wheels -r experiments/benchmarks/gpu_wheels.txt
#
# PYTHON names another interpreter than python3; OPTIONS are further options of gpu.py, such as --tiny.
set -u
wheels=${1:-runs/wheels} out=${2:-runs/gpu}
shift $(($# < 2 ? $# : 2))
pieces=${*:-breakout_300 breakout_300_training rates_cartpole rates_hopper rates_hopper_graphs profile singular_values}
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
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1
# Loops and conditions as CUDA graphs, for rates_hopper_graphs: XLA's own choice has neither in it.
graphs=--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE

mkdir -p "$out"
running=""
for piece in $pieces; do
  if [ -e "$out/gpu_$piece.json" ]; then
    echo "== $piece: done before"
    continue
  fi
  options=${OPTIONS:-}
  case $piece in rates_hopper*) options="--updates 1 $options" ;; esac
  flags=${XLA_FLAGS:-}
  case $piece in *_graphs) flags="${flags:+$flags }$graphs" ;; esac
  ${flags:+env "XLA_FLAGS=$flags"} timeout -k 10 "$limit" "$python" "$root/experiments/benchmarks/gpu.py" "$piece" \
    --out "$out" --budget "$limit" $options >"$out/$piece.log" 2>&1 &
  running="$running $piece:$!"
done
failed=""
for item in $running; do
  wait "${item#*:}" || failed="$failed ${item%:*}"
  echo "== ${item%:*}"
  cat "$out/${item%:*}.log"
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
