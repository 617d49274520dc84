#!/usr/bin/env bash
# flow at size, beside ninja and b3sum: recipes of 1,000 and 10,000 quick stages, and an artifact of 8 GiB in 2,000 files.
# benches/size.sh [FOLDER [GIB]]: FOLDER has room for the files (default: a temporary one). Takes some minutes.
# What it compares with comes from PyPI and crates.io, into folders below target/.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
peers=$root/target/peers
if [ ! -x "$peers/bin/ninja" ]; then
  python3 -m venv "$peers"
  "$peers/bin/pip" install --quiet --disable-pip-version-check ninja==1.13.2
fi
[ -x "$peers/bin/b3sum" ] || cargo install --quiet --locked --root "$peers" b3sum@1.8.7
export PATH="$peers/bin:$PATH"

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), ninja $(ninja --version), $(b3sum --version)"
cargo bench --quiet --locked -p flow-pipeline --bench size
folder=${1:-$(mktemp -d)}
cargo bench --quiet --locked -p flow-cache --bench artifact -- "$folder" "${2:-8}" 2000
