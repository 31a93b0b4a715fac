# SPDX-License-Identifier: Apache-2.0
# Bash completion for quantctl, made by `quantctl completion`: do not edit. To use it:
#   source <(quantctl completion)
_quantctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} group='' name='' words='' files='' i
  # Bash splits words at "=" and ":".
  [[ $cur == = ]] && cur=''
  [[ $prev == = ]] && ((COMP_CWORD >= 2)) && prev=${COMP_WORDS[COMP_CWORD-2]}
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --server | --output | --tls-ca | --tls-cert | --tls-key | --token-file)
        [[ ${COMP_WORDS[i+1]-} == = ]] && ((i++))
        ((i++))
        while [[ ${COMP_WORDS[i+1]-} == : ]]; do ((i += 2)); done ;;
      -*) ;;
      *) if [[ -z $group ]]; then group=${COMP_WORDS[i]}; elif [[ -z $name ]]; then name=${COMP_WORDS[i]}; fi ;;
    esac
  done
  case $group in
    '') words='model dataset storage job worker completion help --server --output --help --version' ;;
    model)
      case $name in
        '') words='upload list show download delete pin unpin --server --output --help' ;;
        upload)
          words='--expires --help --insecure-tokens --name --output --server --tls-ca --tls-cert --tls-key --token-file'
          [[ $cur == -* ]] || files=1
          case $prev in
            --name) files='' words='' ;;
            --expires) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        list)
          words='--help --insecure-tokens --limit --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --limit) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        show)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        download)
          words='--force --help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          [[ $cur == -* ]] || files=1
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        delete)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        pin)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        unpin)
          words='--expires --help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --expires) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
      esac ;;
    dataset)
      case $name in
        '') words='upload list show delete pin unpin --server --output --help' ;;
        upload)
          words='--expires --help --insecure-tokens --name --output --server --tls-ca --tls-cert --tls-key --token-file'
          [[ $cur == -* ]] || files=1
          case $prev in
            --name) files='' words='' ;;
            --expires) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        list)
          words='--help --insecure-tokens --limit --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --limit) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        show)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        delete)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        pin)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        unpin)
          words='--expires --help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --expires) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
      esac ;;
    storage)
      case $name in
        '') words='show --server --output --help' ;;
        show)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
      esac ;;
    job)
      case $name in
        '') words='submit list show watch cancel retry delete report --server --output --help' ;;
        submit)
          words='--absmax-search --act-order --activation-granularity --activation-symmetry --activation-type --alpha --alpha-max --alpha-min --alpha-step --auto-alpha --averaging-constant --baseline --bias-correction --bins --bits --bits-per-weight --block-size --calibration --calibration-batch --calibration-samples --candidates --clip-search --compensate --cross-layer-equalization --damping --descent-passes --double-quantization --duo-scaling --evaluation --evaluation-batch --evaluation-samples --evaluation-skip --format --fp4 --grid-points --group-size --help --insecure-tokens --iterations --kind --label --latency-runs --max-attempts --max-drop --max-size --memory --method --min-token-fraction --model --name --no-cache --norm --objective --observer --op-types --output --percentile --priority --recipe --reduce-range --request-id --scale-search --seed --sensitivity --sequence-length --server --skip --skip-error-profile --skip-first --skip-last --symmetry --then-gptq --threads --threshold --throughput-batch --timeout --tls-ca --tls-cert --tls-key --token-file --true-sequential --watch --weight-granularity'
          case $prev in
            --kind) files='' words='quantize calibrate benchmark analyze tune' ;;
            --model) files='' words='' ;;
            --recipe) files=1 ;;
            --calibration) files='' words='' ;;
            --evaluation) files='' words='' ;;
            --baseline) files='' words='' ;;
            --name) files='' words='' ;;
            --objective) files='' words='size latency' ;;
            --priority) files='' words='' ;;
            --max-attempts) files='' words='' ;;
            --timeout) files='' words='' ;;
            --label) files='' words='' ;;
            --request-id) files='' words='' ;;
            --method) files='' words='dynamic static smoothquant rtn gptq awq nf4 llm_int8 fp16 bf16 mixed hqq' ;;
            --bits) files='' words='' ;;
            --group-size) files='' words='' ;;
            --symmetry) files='' words='symmetric asymmetric full-range' ;;
            --scale-search) files='' words='min-max mse hessian-mse' ;;
            --weight-granularity) files='' words='per-tensor per-channel' ;;
            --reduce-range) files='' words='auto never always' ;;
            --activation-symmetry) files='' words='symmetric asymmetric full-range' ;;
            --activation-type) files='' words='uint8 int8' ;;
            --op-types) files='' words='' ;;
            --alpha) files='' words='' ;;
            --alpha-min) files='' words='' ;;
            --alpha-max) files='' words='' ;;
            --alpha-step) files='' words='' ;;
            --activation-granularity) files='' words='per-token per-tensor' ;;
            --act-order) files='' words='off dynamic static group-aware' ;;
            --damping) files='' words='' ;;
            --block-size) files='' words='' ;;
            --descent-passes) files='' words='' ;;
            --min-token-fraction) files='' words='' ;;
            --grid-points) files='' words='' ;;
            --threshold) files='' words='' ;;
            --norm) files='' words='' ;;
            --iterations) files='' words='' ;;
            --candidates) files='' words='' ;;
            --bits-per-weight) files='' words='' ;;
            --max-drop) files='' words='' ;;
            --max-size) files='' words='' ;;
            --sensitivity) files='' words='diagonal output-error measured' ;;
            --observer) files='' words='min-max moving-average percentile histogram-mse entropy' ;;
            --percentile) files='' words='' ;;
            --averaging-constant) files='' words='' ;;
            --bins) files='' words='' ;;
            --calibration-samples) files='' words='' ;;
            --calibration-batch) files='' words='' ;;
            --sequence-length) files='' words='' ;;
            --evaluation-samples) files='' words='' ;;
            --evaluation-skip) files='' words='' ;;
            --evaluation-batch) files='' words='' ;;
            --latency-runs) files='' words='' ;;
            --throughput-batch) files='' words='' ;;
            --threads) files='' words='' ;;
            --skip) files='' words='' ;;
            --format) files='' words='onnx gptq awq bitsandbytes compressed-tensors gguf' ;;
            --seed) files='' words='' ;;
            --memory) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        list)
          words='--help --insecure-tokens --kind --label --limit --output --server --state --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --limit) files='' words='' ;;
            --state) files='' words='queued running retry-wait cancelling succeeded failed cancelled dead' ;;
            --kind) files='' words='quantize calibrate benchmark analyze tune' ;;
            --label) files='' words='' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        show)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        watch)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        cancel)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        retry)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        delete)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        report)
          words='--format --help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --format) files='' words='text json html' ;;
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
      esac ;;
    worker)
      case $name in
        '') words='list drain --server --output --help' ;;
        list)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
        drain)
          words='--help --insecure-tokens --output --server --tls-ca --tls-cert --tls-key --token-file'
          case $prev in
            --server) files='' words='' ;;
            --output) files='' words='text json id' ;;
            --tls-ca) files=1 ;;
            --tls-cert) files=1 ;;
            --tls-key) files=1 ;;
            --token-file) files=1 ;;
          esac ;;
      esac ;;
  esac
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
  else
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
  fi
}
complete -F _quantctl quantctl
