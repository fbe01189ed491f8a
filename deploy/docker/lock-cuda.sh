#!/bin/sh
# Locks the packages of cuda.Dockerfile, with hashes, at the versions of constraints.txt: requirements-cuda.txt, or the
# file named. What is locked there already stays where it still fits. It takes uv.
set -eu
cd "$(dirname "$0")"
output=${1:-requirements-cuda.txt}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
python3 dependencies.py --cuda > "$work/requirements.in"
grep -v '^onnxruntime==' ../../constraints.txt > "$work/constraints.txt"
uv pip compile --quiet --no-header --no-annotate --generate-hashes --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 -c "$work/constraints.txt" "$work/requirements.in" -o "$output"
