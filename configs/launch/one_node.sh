#!/usr/bin/env bash
# One machine: a process for each GPU. The same command goes on from the newest checkpoint, and so do restarts.
set -euo pipefail

exec torchrun --standalone --nproc-per-node gpu --max-restarts 3 \
    -m dit.train ucf101 --out runs/ucf101 "$@"
