#!/usr/bin/env bash
# The GPU benchmark (gpu.py says what each piece is), on a machine that needs no network. First all pieces' programs are
# compiled side by side, on as many cores as there are, into OUT/cache; then pieces run one after the other, each alone
# on the GPU, and what one found is printed as it ends.
#
#   experiments/benchmarks/gpu.sh [WHEELS [OUT [PIECE...]]]
#   LIMIT=540 experiments/benchmarks/gpu.sh runs/wheels runs/gpu    # all of it ends within 540 seconds
#
# A piece whose OUT/gpu_PIECE.json exists is skipped, so call it again until all are there; one that failed does not
# stop the rest, and its rows so far are in OUT/gpu_PIECE.json.part, its words in OUT/PIECE.log. Compiling gets half of
# the limit: what is not done then, a piece compiles itself. accelerator_measured.py OUT sets what was measured beside
# what is predicted. WHEELS, a folder, holds what the machine's Python lacks; collect it beforehand, where there is network:
#
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d runs/wheels -r experiments/benchmarks/gpu_wheels.txt
#
# PYTHON names another interpreter than python3; OPTIONS are further options of gpu.py, such as --tiny.
set -u
wheels=${1:-runs/wheels} out=${2:-runs/gpu}
shift $(($# < 2 ? $# : 2))
pieces=${*:-breakout_300_training products rates_cartpole breakout_300 rates_hopper rates_hopper_graphs profile}
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
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/cache} JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# Loops and conditions as CUDA graphs, for rates_hopper_graphs: XLA's own choice has neither in it.
graphs=--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE

run() { # SECONDS LOG PIECE OPTION...
  local seconds=$1 log=$2 piece=$3 flags=${XLA_FLAGS:-}
  shift 3
  case $piece in rates_hopper*) set -- --updates 1 "$@" ;; esac
  case $piece in *_graphs) flags="${flags:+$flags }$graphs" ;; esac
  ${flags:+env "XLA_FLAGS=$flags"} timeout -k 10 "$seconds" "$python" "$root/experiments/benchmarks/gpu.py" "$piece" \
    --out "$out" --budget "$seconds" "$@" ${OPTIONS:-} >"$out/$log" 2>&1
}

todo=""
for piece in $pieces; do
  if [ -e "$out/gpu_$piece.json" ]; then echo "== $piece: done before"; else todo="$todo $piece"; fi
done
for piece in $todo; do
  run $(((limit - SECONDS + 1) / 2)) "compile_$piece.log" "$piece" --compile || echo "== $piece: not compiled beforehand" &
done
wait
echo "== compiled, $SECONDS s"
failed=""
for piece in $todo; do
  if [ "$SECONDS" -ge "$limit" ]; then
    echo "== $piece: no time left"
    failed="$failed $piece"
    continue
  fi
  run $((limit - SECONDS)) "$piece.log" "$piece" || failed="$failed $piece"
  echo "== $piece, $SECONDS s"
  cat "$out/$piece.log"
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
