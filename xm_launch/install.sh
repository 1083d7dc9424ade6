#!/usr/bin/env bash
# Installs this package and T5X into the environment of `python`.
#
#   install.sh SOURCE EXTRAS
#
# SOURCE is a checkout of this package, EXTRAS are its extras ('t5x,tpu').
# T5X_SOURCE and AIRIO_SOURCE, in pip's syntax, are the sources of T5X and
# airio, which are on no registry. May be repeated: installed packages are kept.
set -euo pipefail

source_dir=${1:?install.sh SOURCE EXTRAS}
extras=${2:?install.sh SOURCE EXTRAS}
: "${T5X_SOURCE:?in pip syntax, git+https://...@COMMIT}"
: "${AIRIO_SOURCE:?in pip syntax, git+https://...@COMMIT}"

python -m pip install --quiet "${source_dir}[${extras}]"
# Without dependencies: theirs are main branches of other projects, and the
# extra `t5x` has the versions that work.
python -m pip install --quiet --no-deps "$AIRIO_SOURCE" "$T5X_SOURCE"

# The released jestimator imports PartitionSpec from a module that JAX has
# removed it from: patch it.
jestimator=$(python -c 'import importlib.util as u
print(u.find_spec("jestimator").submodule_search_locations[0])')
sed -i 's/jax.experimental.pjit import Part/jax.sharding import Part/' \
  "$jestimator/amos_helper.py"

# Fail here, rather than on a pod, if T5X cannot be imported.
FNET_T5X_ENGINE=t5x python -c 'import fnet_t5x.compat.engine, t5x'
