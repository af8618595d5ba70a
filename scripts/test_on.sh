#!/usr/bin/env bash
# Runs the tests on another JAX than the one that `make test` installs.
set -euo pipefail

if [[ $# -lt 2 || $1 == -h || $1 == --help ]]; then
  cat <<'TEXT'
usage: scripts/test_on.sh FOLDER PIP-ARGUMENT...

Makes a virtual environment in FOLDER, installs vernal with what its tests need, then
`pip install PIP-ARGUMENT...`, which may replace JAX, and runs the tests there. The
options of pytest can be given in PYTEST_ADDOPTS, a platform in JAX_PLATFORMS.

  one version   scripts/test_on.sh .venv-0.8 jax==0.8.0 jaxlib==0.8.0
  NVIDIA GPU    JAX_PLATFORMS=cuda scripts/test_on.sh .venv-gpu 'jax[cuda12]'
  nightly JAX   scripts/test_on.sh .venv-nightly --pre --upgrade --index-url URL \
                  jax jaxlib
                (the URL is in JAX's installation guide, "JAX nightly installation")
TEXT
  [[ ${1-} == -* ]] && exit 0 || exit 2
fi

folder=$1
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -x $folder/bin/python ]] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --editable '.[test]'
"$folder/bin/python" -m pip install --quiet "$@"
"$folder/bin/python" -c 'import jax; print("JAX", jax.__version__, "on", jax.devices())'
exec "$folder/bin/python" -m pytest -n "${JOBS:-2}" tests
