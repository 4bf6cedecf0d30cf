#!/bin/sh
# Builds the stand-in for libcuda.so.1 into FOLDER. With PYTHON, the interpreter of a virtual environment, it also
# installs pycuda there, compiled from source against the toolkit and linked to the stand-in, and cuda-bindings: about
# a minute and a half. The toolkit is CUDA_ROOT, or where nvcc is; of it only the headers are used.
#
#   tests/gpu/driver/build.sh /tmp/libcuda
#   python3 -m venv /tmp/cuda && tests/gpu/driver/build.sh /tmp/libcuda /tmp/cuda/bin/python
#   LD_LIBRARY_PATH=/tmp/libcuda /tmp/cuda/bin/python -c 'import pycuda.driver as d; d.init(); print(d.Device(0).name())'
set -eu

usage="usage: build.sh FOLDER [PYTHON]"
folder=${1:?$usage}
python=${2:-}
pycuda=2026.1

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
"${CC:-cc}" -std=gnu11 -O1 -g -fPIC -shared -Wl,-Bsymbolic,-soname,libcuda.so.1 -o "$folder/libcuda.so.1" \
    "$(dirname "$0")/libcuda.c" -ldl -lpthread
ln -sf libcuda.so.1 "$folder/libcuda.so"
[ -n "$python" ] || exit 0

if [ -z "${CUDA_ROOT:-}" ]; then
    nvcc=$(command -v nvcc) || { echo "error: no nvcc on PATH: set CUDA_ROOT to the CUDA toolkit" >&2; exit 1; }
    CUDA_ROOT=$("$nvcc" --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
fi
header=$CUDA_ROOT/include/cuda.h
[ -f "$header" ] || { echo "error: no $header: set CUDA_ROOT to a CUDA toolkit with headers" >&2; exit 1; }
major=$(sed -n 's/^#define CUDA_VERSION \([0-9]*\)[0-9][0-9][0-9]$/\1/p' "$header")

source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
install="$python -m pip install --quiet --disable-pip-version-check"
$install setuptools wheel 'numpy>=1.24' pytools platformdirs mako "cuda-bindings==$major.*"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary pycuda \
    --dest "$source" "pycuda==$pycuda"
tar xzf "$source/pycuda-$pycuda.tar.gz" -C "$source"
cd "$source/pycuda-$pycuda"
cat > siteconf.py <<END
CUDA_ROOT = "$CUDA_ROOT"
CUDADRV_LIB_DIR = ["$folder"]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O1", "-g0", "-w"]
END
$install --no-deps --no-build-isolation --force-reinstall --no-cache-dir .
