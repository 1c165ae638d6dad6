#!/bin/sh
# Whether a container can do its work. `sweeper-healthy tracking-server`: whether that answers.
set -eu
if [ "${1:-}" = tracking-server ]; then
    exec python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:${MLFLOW_PORT:-5000}/health', timeout=5)"
fi
[ -w "$SWEEPER_HOME" ] || { echo "SWEEPER_HOME=$SWEEPER_HOME cannot be written"; exit 1; }
# A container may lose its GPU when the driver's configuration is loaded again, and nothing else says so.
[ -z "${SWEEPER_NEEDS_GPU:-}" ] || exec python -c "
import pynvml
pynvml.nvmlInit()
raise SystemExit(None if pynvml.nvmlDeviceGetCount() else 'no GPU: docker run --gpus all')"
