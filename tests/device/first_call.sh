#!/usr/bin/env bash
# What a GPU that is lent for a few minutes is asked first: 9 minutes at most, no part needs another.
# Run it in the root of the checkout. Ray and Optuna need not be installed; where packages are
# missing, a folder .whl with their wheels is installed first (pydantic, tensorboardX, torch-fidelity
# and beartype with what they need).
#
#   OUT=folder tests/device/first_call.sh [PART ...]        all parts, or some of them
#   DEVICE=cpu OUT=folder tests/device/first_call.sh        a rehearsal without a GPU, small
#
# OUT gets summary.txt, a line a part, and results.tar.gz with logs, tables and benchmark rows; both
# are brought up to date after each part.
set -u
OUT=${OUT:?the folder for results}; DEVICE=${DEVICE:-cuda}; PYTHON=${PYTHON:-python3}
work=$(mktemp -d); mkdir -p "$OUT" "$work/results"
if compgen -G '.whl/*.whl' >/dev/null; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" .whl/*.whl
fi
export PYTHONPATH=$work/site:$PWD PYTHONUNBUFFERED=1 FRONTIER_CACHE=$work/cache
py() { "$PYTHON" tests/device/bare.py "$@"; }

# A small rehearsal takes other sizes, and the same ways through the program.
if [ "$DEVICE" = cpu ]; then
  gpus=0; size=pico; batches=8; steps=120; bench=(--quick --repeats 1 --limit-s 5 --points 2)
  short=(--set tokenizer.training.steps=30 --set generator.training.steps=40
    --set evaluation.extractor.training.steps=5 --set evaluation.num_images=100
    --set presets.alignment.vf.tokenizer.alignment.encoder.training.steps=30)
else
  gpus=1; size=XL; batches='128 256'; steps=4000; bench=(--limit-s 8 --repeats 3); short=()
fi
cell=(sweeps/frontier.yaml --executor inline --set 'grid.alignment=[vf]'
  --set 'grid.tokenizer.latent_dim=[4]' --set 'grid.generator.size=[pico]' "${short[@]}")
rows=(--device "$DEVICE" --sizes "$size" --out "$work/results/bench" "${bench[@]}")

part_device() {
  nvidia-smi 2>/dev/null
  "$PYTHON" - <<'P'
import torch
from harness.machine.devices import memory_bytes, peak_flops
from harness.metrics.frechet import self_test
from harness.machine.environment import environment
print("torch", torch.__version__, "CUDA", torch.version.cuda)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
print(environment(device))
if device.type == "cuda":
    name = torch.cuda.get_device_name()
    print(name, torch.cuda.get_device_properties(0).total_memory / 2**30, "GiB")
    print({p: peak_flops(name, p) for p in ("bf16", "tf32", "fp32")}, memory_bytes(name))
    assert peak_flops(name, "bf16"), "this device stands in no table of peaks"
self_test(device)
P
}
part_tests() { "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider -o filterwarnings=default tests/device; }
part_cell() {  # The whole way of one cell, on the device and on the CPU.
  py harness.run "${cell[@]}" --set resources.default.gpus=$gpus --set name=device --profile 5 \
    --store "$work/store" --results "$work/results" || return 1
  [ "$DEVICE" = cpu ] || py harness.run "${cell[@]}" --set resources.default.gpus=0 --set name=cpu \
    --store "$work/cpu" --results "$work/results"
  find "$work/store" -name 'trace-*.json.gz' -path '*generator*' -exec cp {} "$work/results" \;
}
part_resume() {  # Killed in its training, a sweep goes on from the checkpoint.
  local again=("${cell[@]}" --set resources.default.gpus=$gpus --set name=resumed --only generator
    --set resources.default.checkpoint_every_s=0.5 --store "$work/killed"
    --results "$work/results" --set generator.training.steps=$steps)
  # Not by the function, whose shell would be what is killed.
  "$PYTHON" tests/device/bare.py harness.run "${again[@]}" & local run=$!
  for _ in $(seq 300); do
    compgen -G "$work/killed/generator/*/checkpoints/*.json" >/dev/null && break; sleep 0.2
  done
  kill -9 $run; wait $run 2>/dev/null
  py harness.run "${again[@]}" && grep -q '"resumed"' "$work"/killed/generator/*/artifact.json
}
part_generator() {
  for batch in $batches; do py harness.bench --only generator --batch-size $batch "${rows[@]}"; done
}
part_tokenizer() { py harness.bench --only tokenizer parts encoding "${rows[@]}"; }
part_sampling() { py harness.bench --only sampling "${rows[@]}"; }
part_metrics() { py harness.bench --only metrics "${rows[@]}"; }

# part:seconds
all=(device:20 tests:60 cell:80 resume:40 generator:150 tokenizer:90 sampling:70 metrics:30)
for each in "${all[@]}"; do
  part=${each%:*}
  case " ${*:-$part} " in *" $part "*) ;; *) continue ;; esac
  started=$SECONDS
  export -f py "part_$part"
  # A shell of its own for each, which its time limit ends with all that it has started.
  declare -p gpus size batches steps bench short cell rows work PYTHON DEVICE > "$work/settings"
  timeout -k 5 "${each#*:}" bash -c "source '$work/settings'; part_$part" > "$work/results/$part.log" 2>&1
  code=$?
  echo "$part: exit code $code after $((SECONDS - started)) s" | tee -a "$OUT/summary.txt"
  tar -czf "$OUT/results.tar.gz" -C "$work/results" --exclude='*.pdf' --exclude='*.svg' .
done
rm -rf "$work"
