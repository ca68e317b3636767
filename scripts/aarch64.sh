#!/usr/bin/env bash
# Run the C++ tests for aarch64 on an x86 machine: bash scripts/aarch64.sh FOLDER [PYTEST ARGUMENTS]
#
# Cross-compiles the kernels and runs pytest in an aarch64 Python under qemu-user. FOLDER keeps that
# Python and its packages (1 GB). Needs Debian 12, PYTHON with pip, and once, as root:
#   dpkg --add-architecture arm64 && apt-get update
#   apt-get install qemu-user g++-aarch64-linux-gnu
set -euo pipefail

TORCH=torch==2.7.1 # the wheels of later versions for aarch64 need CUDA
# Installed without its requirements: pip would choose those of the x86 machine.
PACKAGES="typing_extensions sympy networkx jinja2 fsspec av filelock gdown platformdirs pooch numpy soundfile soxr safetensors huggingface_hub
    tyro tqdm pytest hypothesis"
DEBIAN="libc6 libgcc-s1 libstdc++6 libgomp1 python3.11-minimal libpython3.11-minimal
    libpython3.11-stdlib zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3 libsqlite3-0 libuuid1"
PLATFORMS="manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_17 manylinux2014"

mkdir -p "$1"
folder=$(realpath "$1")
root=$folder/root packages=$folder/packages tree=$folder/tree
shift

if [ ! -d "$root" ]; then
    rm -rf "$folder/debian" "$root.part"
    mkdir "$folder/debian" "$root.part"
    (cd "$folder/debian" && apt-get download $(printf '%s:arm64 ' $DEBIAN))
    for package in "$folder"/debian/*.deb; do dpkg -x "$package" "$root.part"; done
    mv "$root.part" "$root"
fi
if [ ! -d "$packages" ]; then
    rm -rf "$packages.part"
    download="${PYTHON:-python3} -m pip install --quiet --target $packages.part --only-binary=:all:
        --python-version 3.11 $(printf -- '--platform %s_aarch64 ' $PLATFORMS)"
    $download $PACKAGES
    $download --no-deps $TORCH
    mkdir "$packages.part/hear_axlstm-0.dist-info" # the package asks for its version
    printf 'Metadata-Version: 2.1\nName: hear_axlstm\nVersion: 0\n' \
        >"$packages.part/hear_axlstm-0.dist-info/METADATA"
    mv "$packages.part" "$packages"
fi

rm -rf "$tree"
mkdir "$tree"
cp -r hear_axlstm tests pyproject.toml "$tree"
cd "$tree"
rm -f hear_axlstm/ops/_cpu*
aarch64-linux-gnu-g++ -O3 -std=c++17 -fPIC -fopenmp-simd -pthread -Wall -Wextra -Werror \
    -fno-math-errno -fno-trapping-math -fno-signed-zeros \
    -shared hear_axlstm/ops/csrc/*.cpp -o hear_axlstm/ops/_cpu.so
export PYTHONPATH=$tree:$packages
exec qemu-aarch64 -L "$root" -E LD_LIBRARY_PATH="$packages/torch/lib:$packages/torch.libs" \
    "$root/usr/bin/python3.11" -m pytest -q --capture=sys -p no:cacheprovider \
    "${@:-tests/ops/test_cpu_mixer.py}"
