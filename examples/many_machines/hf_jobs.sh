#!/usr/bin/env bash
# Distils with jobs of Hugging Face that share a bucket, mounted at /shared, and finishes with one more. The options are
# decoct's own:
#
#     RANKS=8 bash hf_jobs.sh user/bucket --dataset user/images --teacher user/teacher --ipc 10 --batch_size 128
#
# Then, when the ranks are done (`hf jobs ps`):
#
#     bash hf_jobs.sh user/bucket --merge --dataset user/images --teacher user/teacher --ipc 10 --batch_size 128 \
#         --push_to_hub user/set
set -euo pipefail

bucket=$1
shift
ranks=${RANKS:-8}
job=(hf jobs uv run --detach --flavor "${FLAVOR:-l4x1}" --secrets HF_TOKEN --volume "hf://buckets/$bucket:/shared")
work=(--with decoct -- decoct distill "$@" --output_dir /shared/run)
if [[ " $* " == *" --merge "* ]]; then
  "${job[@]}" "${work[@]}"
  exit
fi
for ((rank = 0; rank < ranks; rank++)); do
  # RANK and WORLD_SIZE are read for --world_size 0.
  "${job[@]}" --env "RANK=$rank" --env "WORLD_SIZE=$ranks" "${work[@]}" --world_size 0 --wait 3600
done
