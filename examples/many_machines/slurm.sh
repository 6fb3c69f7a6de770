#!/usr/bin/env bash
# Distils with a job array of Slurm, a GPU for each rank, and finishes with one job after it. The options are decoct's own:
#
#     RANKS=16 bash slurm.sh --dataset user/images --teacher user/teacher --ipc 10 --batch_size 128 --output_dir /shared/run
#
# A rank that was lost is done again by `sbatch --array=R` with the same words, or its shards by the job that finishes.
set -euo pipefail

ranks=${RANKS:-8}
words=$(printf '%q ' "$@")
array=$(sbatch --parsable --array="0-$((ranks - 1))" --gpus=1 --cpus-per-task=8 --time="${TIME:-04:00:00}" \
  --job-name=decoct-ranks --wrap "decoct distill $words --world_size $ranks --wait 3600")
# `afterany`: what lost ranks have left is computed by the last job.
sbatch --dependency="afterany:$array" --gpus=1 --cpus-per-task=8 --time="${TIME:-04:00:00}" \
  --job-name=decoct-merge --wrap "decoct distill $words --merge"
