#!/usr/bin/env bash
# Installs this package and T5X into the environment that `python` is of.
#
#   install.sh SOURCE EXTRAS
#
# SOURCE is a checkout of this package, EXTRAS are its extras ('t5x,tpu').
# T5X_SOURCE and AIRIO_SOURCE, in pip's syntax, say which T5X and airio: they
# are on no registry. May be run again: what is there stays as it is.
set -euo pipefail

source_dir=${1:?install.sh SOURCE EXTRAS}
extras=${2:?install.sh SOURCE EXTRAS}
: "${T5X_SOURCE:?in pip syntax, git+https://...@COMMIT}"
: "${AIRIO_SOURCE:?in pip syntax, git+https://...@COMMIT}"

python -m pip install --quiet "${source_dir}[${extras}]"
# What they ask for are other projects' main branches: the extra `t5x` holds
# what they need.
python -m pip install --quiet --no-deps "$AIRIO_SOURCE" "$T5X_SOURCE"

# The registry's jestimator takes PartitionSpec from where JAX no longer has it,
# and cannot be imported before it is mended.
jestimator=$(python -c 'import importlib.util as u
print(u.find_spec("jestimator").submodule_search_locations[0])')
sed -i 's/jax.experimental.pjit import Part/jax.sharding import Part/' \
  "$jestimator/amos_helper.py"

# An installation that cannot start is worth knowing of before a pod is.
FNET_T5X_ENGINE=t5x python -c 'import fnet_t5x.compat.engine, t5x'
