#!/usr/bin/env bash
# Fine-tuning of Qwen2.5-Math-1.5B on all of GSM8K's training problems: full, LoRA or QLoRA, on one GPU.
#
#     CS336_GSM8K=FOLDER recipes/qwen_sft.sh full OUT           all weights; float32 master weights, bfloat16 products
#     CS336_GSM8K=FOLDER recipes/qwen_sft.sh lora OUT           adapters of rank 16 over bfloat16 weights
#     CS336_GSM8K=FOLDER recipes/qwen_sft.sh qlora OUT          the same over 4-bit weights
#     CS336_GSM8K=FOLDER recipes/qwen_sft.sh grid OUT           each method's own learning rates, 3 seeds, 1,024 problems
#
# Options after OUT go to `cs336-sft sft` (or `sweep`) as they are:
#     --gradient-checkpointing    half the activations or less, about a third more time: for a smaller card
#     --micro-batch-size 4        the same learning with less memory
#     --sampler vllm              evaluations with vLLM, which takes 30 % of an 80 GB card during training
#
# Minutes and memory of each, measured on the shape with random weights (they do not depend on the weights' values):
#     python recipes/sft_cost.py recorded/methods/memory_1.5b.json
# Evaluations come on top: `--eval-every none` makes two of them, of 512 validation problems each.
# Learning rates: 1e-5 is what the course's notes used for all weights, an adapter's default is ten times that. Neither
# was tuned for your data: `grid` does that, on validation problems.
set -euo pipefail
mode=${1:?full, lora, qlora or grid} out=${2:?a folder for the runs}
shift 2

sft=(
  python -m cs336_sft sft --profile qwen2.5-math-1.5b --train-size full --epochs 3 --batch-size 16 --micro-batch-size 8
  --schedule cosine --warmup 40 --max-new-tokens 512 --eval-size 512 --eval-every none --test-checkpoint last
)
case $mode in
  full) "${sft[@]}" --learning-rate 1e-5 --out "$out/full" "$@" ;;
  lora | qlora)
    "${sft[@]}" --learning-rate 1e-4 --method "$mode" --out "$out/$mode" "$@"
    # An ordinary model folder, for vLLM and for sharing.
    [ -d "$out/$mode-merged" ] || python -m cs336_sft merge "$out/$mode/final" --out "$out/$mode-merged" ;;
  grid)
    python -m cs336_sft sweep "$(dirname "$0")/grids/qwen_methods.json" --out "$out/grid" \
      --record "$out/qwen_methods.json" --drop-weights "$@" ;;
  *) echo "full, lora, qlora or grid, not $mode" >&2; exit 2 ;;
esac
