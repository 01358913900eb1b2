#!/usr/bin/env bash
# NVIDIA's perf_analyzer against the ensemble of a running server: gRPC streaming, greedy, answers of 64 tokens.
#
#   perf/perf_analyzer/run.sh [EXPORT_FILE]        every response with its time goes to EXPORT_FILE
#
# Environment: PERF_ANALYZER  the program (perf_analyzer)
#              GRPC_URL       the server (127.0.0.1:8001)
#              CONCURRENCY    requests at a time (8); with a request count, perf_analyzer takes one value a run
#              REQUEST_COUNT  requests to measure (32, one for each prompt)
set -euo pipefail

export_file=${1:-profile_export.json}
prompts=$(dirname "$0")/prompts.json

exec "${PERF_ANALYZER:-perf_analyzer}" \
  -m ensemble \
  -u "${GRPC_URL:-127.0.0.1:8001}" \
  -i grpc --async --streaming \
  --input-data "$prompts" \
  --concurrency-range "${CONCURRENCY:-8}" \
  --request-count "${REQUEST_COUNT:-32}" \
  --profile-export-file "$export_file"
