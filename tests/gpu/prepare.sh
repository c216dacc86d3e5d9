#!/usr/bin/env bash
# Collects in a folder what a machine with a GPU and no network lacks: wheels for its Python, pinned as in constraints.txt.
#   bash tests/gpu/prepare.sh [FOLDER [PACKAGE...]]
# In the project's root, on a machine with a network. Which packages: those named; or what the project imports and an
# installation of PyTorch does not bring. xformers and av are large: name them where they are wanted.
set -euo pipefail
folder=${1:-wheels}; shift || true
python=${PYTHON_THERE:-3.12}
packages=("$@")
if [ ${#packages[@]} = 0 ]; then
  packages=(numpy pillow safetensors accelerate diffusers tyro docstring-parser typeguard pydantic pydantic-core annotated-types
    typing-inspection typing-extensions einops pyarrow filelock ftfy wcwidth google-crc32c imageio imageio-ffmpeg tqdm psutil)
fi
platforms=()
for glibc in 39 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
for year in 2014 2010 1; do platforms+=(--platform "manylinux${year}_x86_64"); done
mkdir -p "$folder"
for package in "${packages[@]}"; do
  pinned=$(grep -iE "^$(sed 's/[-_]/[-_]/g' <<<"$package")==" constraints.txt | head -n 1 || true)
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
    "${platforms[@]}" --platform any --dest "$folder" "${pinned:-$package}" || echo "no wheel of $package for Python $python"
done
ls "$folder"
