#!/usr/bin/env bash
# Expert iteration of Qwen2.5-Math-1.5B on GSM8K with vLLM, and its random control: the settings of CS336's assignment 5.
#
#     CS336_GSM8K=FOLDER recipes/qwen_expert_iteration.sh one OUT          one GPU with 80 GB
#     CS336_GSM8K=FOLDER recipes/qwen_expert_iteration.sh several OUT N    N GPUs of one machine
#
# One GPU: the engine takes 30 % of the card (weights 3 GB, the rest key-value cache) and the trainer the other 70 %:
# float32 master weights, gradients and AdamW states are 24.6 GB, activations come on top.
# Several GPUs: accelerate trains data-parallel on all of them. The main process samples, with an engine on the first
# card, which sleeps (weights to the host, cache freed) while the cards train.
# The start is a fine-tuned model (128 examples): the base model hardly ever writes the demanded format, so its strict
# reward is near zero. To start from the base all the same: --selection-grader lenient --add-format in place of --sft-size.
set -euo pipefail
mode=${1:?one or several} out=${2:?a folder for the runs} gpus=${3:-1}

common=(
  --profile qwen2.5-math-1.5b --sft-size 128 --sft-epochs 3
  --rounds 5 --questions-per-round 1024 --pool-size 6833 --num-samples 8 --temperature 1.0 --min-new-tokens 4
  --max-new-tokens 1024 --epochs 2 --learning-rate 1e-5 --batch-size 32 --micro-batch-size 4
  --sampler vllm --max-model-len 2048 --eval-size 512 --test-checkpoint last --keep-rounds 1
)
case $mode in
  one) run=(python -m cs336_sft ei "${common[@]}" --gpu-memory-utilization 0.3) ;;
  several)
    run=(accelerate launch --multi_gpu --num_processes "$gpus" -m cs336_sft ei "${common[@]}"
      --gpu-memory-utilization 0.5 --sleep) ;;
  *) echo "one or several, not $mode" >&2; exit 2 ;;
esac

"${run[@]}" --out "$out/ei" --cache-dir "$out/rollouts" --plot "$out/ei.png"
# As many samples a round, drawn at random from all of them: what filtering is worth.
"${run[@]}" --out "$out/random" --cache-dir "$out/rollouts" --select random --match-samples-of "$out/ei/ei"
