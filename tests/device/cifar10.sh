#!/usr/bin/env bash
# A piece of sweeps/cifar10.yaml on a GPU that is lent for minutes: what is asked for by settings, until
# the time is over. The store stays on the machine, so that the next piece there goes on; results and
# records come back.
#
#   OUT=folder SECONDS_LEFT=480 STORE=/tmp/frontier tests/device/cifar10.sh 'grid.seed=[0]' ...
#   DEVICE=cpu DATA=photographs OUT=folder tests/device/cifar10.sh      a rehearsal, small
#
# DATA holds train-*.parquet and test-*.parquet (default: data/cifar10). Whole trainings take longer
# than one loan: `generator.training.steps=3000` and the like shorten them, which other keys tell.
set -u
OUT=${OUT:?the folder for results}; DEVICE=${DEVICE:-cuda}; PYTHON=${PYTHON:-python3}
STORE=${STORE:-$(mktemp -d)}; DATA=${DATA:-data/cifar10}; SECONDS_LEFT=${SECONDS_LEFT:-480}
mkdir -p "$OUT" "$STORE"
export PYTHONPATH=${PYTHONPATH:-}:$PWD PYTHONUNBUFFERED=1
settings=(--set "data.root=$DATA" --set resources.default.checkpoint_every_s=20)
if [ "$DEVICE" = cpu ]; then
  settings+=(--set resources.default.gpus=0 --set resources.generator.gpus=0
    --set resources.generator.compile=false --set resources.default.cpus=1
    --set resources.generator.cpus=1 --set 'grid.tokenizer.latent_dim=[4]'
    --set 'grid.alignment=[none]' --set 'grid.generator.size=[pico]' --set 'grid.seed=[0]'
    --set tokenizer.training.warmup_steps=0 --set generator.training.warmup_steps=0
    --set evaluation.extractor.training.warmup_steps=0 --set tokenizer.training.steps=3
    --set generator.training.steps=3 --set evaluation.extractor.training.steps=3
    --set evaluation.num_images=100 --set tokenizer.architecture.base_width=32
    --set tokenizer.training.batch_size=8)
fi
for setting in "$@"; do settings+=(--set "$setting"); done
"$PYTHON" tests/device/bare.py harness.run sweeps/cifar10.yaml --executor inline \
  --time-limit "$SECONDS_LEFT" --store "$STORE" --results "$OUT/results" "${settings[@]}" \
  > "$OUT/run.log" 2>&1
code=$?
find "$STORE" -name artifact.json -o -name progress.json | tar -czf "$OUT/records.tar.gz" -T - 2>/dev/null
tar -czf "$OUT/results.tar.gz" -C "$OUT" --exclude='*.pdf' --exclude='*.svg' results && rm -rf "$OUT/results"
tail -5 "$OUT/run.log"; echo "exit code $code (124: the time is over, call again to go on)"
