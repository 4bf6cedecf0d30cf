#!/usr/bin/env bash
# Installs edge-cnnlstm and one bundle on a Jetson as a systemd service.
#
# Every check comes before the first change, and a second run with the same arguments
# changes nothing. A refusal says what was found, what was expected and what to do, and
# exits 2; a step that fails exits 1, and the script can be run again.
#
# EDGE_CNNLSTM_ROOT, empty on a robot, is put before every system path read or written,
# so that tests and image builders can work on a tree that is not /. A virtual
# environment records the path it was made at: an image that will boot is made inside a
# chroot of that tree, with EDGE_CNNLSTM_ROOT empty and --allow-any-machine.

set -euo pipefail
umask 022 # root's own umask may hide the files from the service user

usage() {
    cat <<'END'
usage: sudo ./install.sh --wheel edge_cnnlstm-*.whl --bundle model.edge [options]

  --wheel FILE          the edge_cnnlstm wheel to install
  --bundle FILE         the bundle to serve
  --source SOURCE       where frames come from; replaces the one installed
                        (default on a first install: /dev/video0)
  --prefix DIR          where the program and bundles go (default: /opt/edge-cnnlstm)
  --dry-run             check everything, print the commands, change nothing
  --allow-any-machine   warn, do not refuse, where the machine is not a supported
                        Jetson or has no TensorRT: for arm64 test systems and CI
  --help                print this
END
}

refuse() { # WHAT FOUND EXPECTED TO_DO
    printf 'install.sh: refused: %s\n  found:    %s\n  expected: %s\n  to do:    %s\n' "$@" >&2
    exit 2
}

warn() {
    printf 'install.sh: warning: %s\n' "$1" >&2
}

refuse_machine() { # as refuse; a warning under --allow-any-machine
    if [[ -z $any_machine ]]; then
        refuse "$@"
    fi
    warn "$1 (found: $2; expected: $3)"
}

run() {
    if [[ -n $dry_run ]]; then
        printf '+'
        printf ' %q' "$@"
        printf '\n'
        return
    fi
    changed=yes
    local status=0
    "$@" || status=$?
    if ((status)); then
        printf 'install.sh: stopped: exit status %d from: %s\n' "$status" "$*" >&2
        printf 'install.sh: nothing after that step was done; the script can be run again\n' >&2
        exit 1
    fi
}

put() { # MODE FILE CONTENT: replaces FILE in one step, and only if it differs
    if [[ -f $2 && $(stat -c %a "$2") == "$1" && $(<"$2") == "$3" ]]; then
        return
    fi
    run install -D -m "$1" /dev/stdin "$2.new" <<<"$3"
    if [[ -n $dry_run ]]; then
        printf '    %s\n' "${3//$'\n'/$'\n'    }"
    fi
    run mv -T "$2.new" "$2"
}

at_least() { # VERSION MAJOR MINOR
    local major minor
    IFS=. read -r major minor _ <<<"$1.0"
    [[ $major.$minor =~ ^[0-9]+\.[0-9]+$ ]] && ((major > $2 || major == $2 && minor >= $3))
}

sha256() {
    local sum
    sum=$(sha256sum <"$1")
    printf '%s' "${sum%% *}"
}

read_arguments() {
    while (($#)); do
        case $1 in
        --wheel | --bundle | --source | --prefix)
            if [[ -z ${2:-} || $2 == --* ]]; then
                refuse "option without a value" "$1 ${2:-}" "$1 VALUE" "run ./install.sh --help"
            fi
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --dry-run) dry_run=yes ;;
        --allow-any-machine) any_machine=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            refuse "unknown argument" "$1" "options only, one wheel and one bundle" \
                "run ./install.sh --help"
            ;;
        esac
        shift
    done
}

check_arguments() {
    # The prefix is written into the unit and the environment file unquoted, and the
    # unit's ProtectHome= hides the homes from the service.
    if [[ ! $prefix =~ ^(/[A-Za-z0-9][A-Za-z0-9._-]*)+$ || $prefix =~ ^/(home|root)(/|$) ]]; then
        refuse "prefix cannot be used" "$prefix" \
            "an absolute path of letters, digits, '.', '_' and '-', not under /home or /root" \
            "choose another --prefix, such as /opt/edge-cnnlstm"
    fi
    if [[ $source == *[\'\\[:cntrl:]]* ]]; then
        refuse "source cannot be written to the environment file" "$source" \
            "no single quote, backslash or control character" \
            "choose another --source, or edit $environment_file by hand after installing"
    fi
}

check_host() {
    local tool
    if [[ -z $root && $EUID -ne 0 ]]; then
        refuse "not running as root" "user id $EUID" "user id 0" "run it again with sudo"
    fi
    if [[ -n $root && ! ($root == /* && -d $root) ]]; then
        refuse "EDGE_CNNLSTM_ROOT cannot be used" "$root" "the absolute path of a directory" \
            "create it, or unset EDGE_CNNLSTM_ROOT"
    fi
    for tool in useradd systemctl; do
        if ! command -v "$tool" >/dev/null; then
            refuse "a system tool is missing" "no $tool on PATH" "useradd and systemctl" \
                "run it on a systemd machine, as root with the system's PATH"
        fi
    done
}

device_tree() { # PROPERTY: its strings, which end in NUL, separated by spaces
    local file=$root/proc/device-tree/$1
    if [[ -r $file ]]; then
        tr '\0' ' ' <"$file"
    fi
}

l4t_release() { # prints 36.4.3, or nothing where there is no L4T
    local text=
    if [[ -r $root/etc/nv_tegra_release ]]; then
        text=$(head -n 1 "$root/etc/nv_tegra_release")
    fi
    if [[ $text =~ R([0-9]+)\ \(release\),\ REVISION:\ ([0-9]+(\.[0-9]+)*) ]]; then
        printf '%s.%s' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
        return
    fi
    # Trimmed systems lack the file; the package that carries it still knows.
    # shellcheck disable=SC2016 # the format is dpkg-query's, not the shell's
    text=$(dpkg-query --admindir="$root/var/lib/dpkg" --show \
        --showformat='${db:Status-Status} ${Version}' nvidia-l4t-core 2>/dev/null || true)
    if [[ $text =~ ^installed\ ([0-9]+(\.[0-9]+)+) ]]; then
        printf '%s' "${BASH_REMATCH[1]}"
    fi
}

check_machine() {
    local arch chips expected supported=
    arch=$(uname -m)
    if [[ $arch != aarch64 ]]; then
        refuse_machine "wrong architecture" "$arch" "aarch64" "run it on the Jetson itself"
    fi

    model=$(device_tree model)
    model=${model% }
    l4t=$(l4t_release)
    if [[ -z $l4t ]]; then
        refuse_machine "this machine is not a Jetson" \
            "no L4T release in /etc/nv_tegra_release or package nvidia-l4t-core; model: ${model:-unknown}" \
            "a Jetson with L4T installed" "run it on the Jetson itself"
        return
    fi

    chips=$(device_tree compatible)
    case $chips in
    *tegra234*)
        expected="L4T 36.4 or a later 36, or 39.2 or later, on Orin (JetPack 6.1+, 7.2+)"
        if at_least "$l4t" 39 2 || { [[ $l4t == 36.* ]] && at_least "$l4t" 36 4; }; then
            supported=yes
        fi
        ;;
    *tegra264*)
        expected="L4T 38.2 or later on Thor (JetPack 7.0+)"
        if at_least "$l4t" 38 2; then
            supported=yes
        fi
        ;;
    *) expected="an Orin (tegra234) or a Thor (tegra264)" ;;
    esac
    if ! at_least "$l4t" 36 0; then
        refuse_machine "this L4T release is not supported" "L4T $l4t (JetPack 5 or older)" \
            "$expected" "flash JetPack 6.1 or later: JetPack 5 has Python 3.8, edge-cnnlstm needs 3.10"
    elif [[ -z $supported ]]; then
        refuse_machine "this board and L4T release are not supported" \
            "L4T $l4t on ${model:-an unknown model} (${chips:-no device tree})" "$expected" \
            "flash a pair listed in jetson/boards.md"
    fi
}

# -I: only what every user of the system Python sees counts, not root's own packages or
# PYTHONPATH, which the service would not have.
system_python() {
    python3 -I -c "$1"
}

check_python() {
    python=$(system_python 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)
    if ! at_least "$python" 3 10; then
        refuse "no usable python3" "${python:-no python3 on PATH}" "Python 3.10 or later" \
            "use JetPack 6.1 or later, and put its /usr/bin first on PATH"
    fi
    if ! system_python 'import ensurepip, venv' 2>/dev/null; then
        refuse "python3 cannot make virtual environments" \
            "no venv or ensurepip module in $(command -v python3)" "both" \
            "sudo apt install python3-venv"
    fi
}

check_tensorrt() {
    local output status=0
    output=$(system_python 'import tensorrt; print(tensorrt.__version__)' 2>&1) || status=$?
    output=${output##*$'\n'} # an import may warn before its last line
    if ((status)) || ! at_least "$output" 10 3; then
        refuse_machine "no usable TensorRT in $(command -v python3)" "${output:-nothing}" \
            "JetPack's TensorRT binding, 10.3 or later" \
            "sudo apt install python3-libnvinfer, or all of JetPack: sudo apt install nvidia-jetpack"
    else
        tensorrt=$output
    fi
}

has_pycuda() { # PYTHON
    "$1" -I -c 'import importlib.util as u, sys; sys.exit(u.find_spec("pycuda") is None)' 2>/dev/null
}

check_pycuda() {
    if [[ -z $tensorrt ]]; then
        return
    fi
    local missing=() list nvcc
    nvcc=$(command -v nvcc || true)
    if [[ -z $nvcc && -x $root/usr/local/cuda/bin/nvcc ]]; then
        nvcc=$root/usr/local/cuda/bin/nvcc
    fi
    if [[ -n $nvcc ]]; then
        cuda=$(dirname "$(dirname "$nvcc")")
    fi
    if has_pycuda python3 || has_pycuda "$venv/bin/python"; then
        return
    fi

    if [[ -z $cuda ]]; then
        missing+=("nvcc on PATH or in /usr/local/cuda/bin")
    fi
    if ! command -v g++ >/dev/null; then
        missing+=("g++ on PATH")
    fi
    if ! system_python 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then
        missing+=("Python.h")
    fi
    if ((${#missing[@]})); then
        printf -v list ', no %s' "${missing[@]}"
        refuse "PyCUDA comes as source and cannot be compiled here" "${list#, }" \
            "nvcc, g++ and Python.h" "sudo apt install nvidia-jetpack g++ python3-dev"
    fi
}

check_files() {
    if [[ ! -f $wheel || ${wheel##*/} != edge_cnnlstm-*.whl ]]; then
        refuse "no wheel" "${wheel:-no --wheel}" "an existing edge_cnnlstm-*.whl" \
            "build it on a workstation, copy it here and pass it as --wheel"
    fi
    if [[ ! -f $bundle ]]; then
        refuse "no bundle" "${bundle:-no --bundle}" "an existing bundle, such as model.edge" \
            "export it on a workstation, copy it here and pass it as --bundle"
    fi
    if [[ ! -f $here/$unit ]]; then
        refuse "the unit template is missing" "no $here/$unit" "it lies beside install.sh" \
            "copy the whole jetson folder"
    fi
    wheel=$(realpath "$wheel")
    bundle=$(realpath "$bundle")
}

create_user() {
    if grep -qs "^$user:" "$root/etc/passwd"; then
        return
    fi
    local groups=video # owns /dev/video*, /dev/nvmap and /dev/nvhost-*
    if grep -qs '^render:' "$root/etc/group"; then
        groups+=,render # some releases ask for it before CUDA starts
    fi
    # The home is the unit's CacheDirectory=: CUDA and PyCUDA cache below the home.
    run useradd ${root:+--prefix "$root"} --system --user-group --groups "$groups" \
        --no-create-home --home-dir /var/cache/edge-cnnlstm --shell /usr/sbin/nologin "$user"
}

install_program() {
    local extras=robot stamp=$venv/installed-wheel wanted replaces=
    if [[ -n $tensorrt ]]; then
        extras+=,tensorrt-jetson
    fi
    # The second test catches an environment left by an older Python.
    if [[ ! -x $venv/bin/pip || ! -d $venv/lib/python$python ]]; then
        run python3 -m venv --clear --system-site-packages "$venv"
    fi

    wanted="$(sha256 "$wheel") $extras"
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        return
    fi
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input --no-cache-dir install)
    local with_cuda=()
    if [[ -n $cuda ]]; then
        with_cuda=(env "PATH=$cuda/bin:$PATH" "CUDA_ROOT=$cuda")
    fi
    # The stamp goes first: after a failure below, no wheel counts as installed.
    run rm -f "$stamp"
    if [[ -x $venv/bin/edge-cnnlstm ]]; then
        replaces=yes
    fi
    run "${with_cuda[@]}" "${pip[@]}" "${wheel}[$extras]"
    # pip keeps an installed wheel of the same version, even where the content differs.
    if [[ -n $replaces ]]; then
        run "${pip[@]}" --force-reinstall --no-deps "$wheel"
    fi
    put 644 "$stamp" "$wanted"
}

verify() { # BUNDLE
    if [[ -n $dry_run ]]; then
        run "$venv/bin/edge-cnnlstm" verify "$1"
        return
    fi
    local output
    if ! output=$("$venv/bin/edge-cnnlstm" verify "$1" 2>&1); then
        refuse "the bundle does not verify" "${output//$'\n'/$'\n'            }" \
            "edge-cnnlstm verify accepts $bundle" \
            "export it again, or copy it again; the bundle in service is unchanged"
    fi
}

# What is verified is the copy that will be served, not the file it was made from.
install_bundle() {
    local sum id target
    sum=$(sha256 "$bundle")
    id=${sum:0:16}
    target=$prefix_dir/bundles/$id.edge
    if [[ -f $target && $(sha256 "$target") == "$sum" ]]; then
        verify "$target"
    else
        if [[ ! -d $prefix_dir/bundles ]]; then
            run install -d -m 755 "$prefix_dir/bundles"
        fi
        staged=$target.new
        run install -m 644 "$bundle" "$staged"
        if [[ -z $dry_run && $(sha256 "$staged") != "$sum" ]]; then
            refuse "the bundle changed while it was copied" "a copy that differs from $bundle" \
                "SHA-256 $sum" "wait until nothing writes to the file, and run it again"
        fi
        verify "$staged"
        run mv -T "$staged" "$target"
    fi

    if [[ $(readlink "$prefix_dir/current.edge" || true) != "bundles/$id.edge" ]]; then
        run sync -f "$prefix_dir" # after a power cut the link must not point to less than was verified
        run ln -sfn "bundles/$id.edge" "$prefix_dir/current.edge.new"
        run mv -T "$prefix_dir/current.edge.new" "$prefix_dir/current.edge"
    fi
}

# Mode 600: a source may be an RTSP address with a password. systemd reads it as root.
write_environment() {
    local file=$root$environment_file served=EDGE_CNNLSTM_BUNDLE=$prefix/current.edge kept
    if [[ ! -e $file ]]; then
        put 600 "$file" "EDGE_CNNLSTM_SOURCE='${source:-/dev/video0}'"$'\n'"$served"
        return
    fi
    if [[ -n $source ]]; then
        kept=$(grep -v '^EDGE_CNNLSTM_SOURCE=' "$file" || true)
        put 600 "$file" "EDGE_CNNLSTM_SOURCE='$source'${kept:+$'\n'}$kept"
    fi
    if ! grep -qxF "$served" "$file"; then
        warn "$environment_file does not say $served: the service runs what that file says"
    fi
}

install_unit() {
    local file=$root/etc/systemd/system/$unit text
    text=$(<"$here/$unit")
    text=${text//@PREFIX@/"$prefix"}
    if [[ ! -f $file || $(<"$file") != "$text" ]]; then
        put 644 "$file" "$text"
        if [[ -z $root ]]; then
            run systemctl daemon-reload
        fi
    fi
    if ! systemctl ${root:+--root="$root"} is-enabled --quiet "$unit" 2>/dev/null; then
        run systemctl ${root:+--root="$root"} enable "$unit"
    fi
}

root=${EDGE_CNNLSTM_ROOT:-}
root=${root%/}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
user=edge-cnnlstm
unit=edge-cnnlstm.service
environment_file=/etc/edge-cnnlstm.env

wheel='' bundle='' source='' prefix=/opt/edge-cnnlstm dry_run='' any_machine=''
model='' l4t='' python='' tensorrt='' cuda='' changed='' staged=''

read_arguments "$@"
prefix_dir=$root$prefix
venv=$prefix_dir/venv

check_arguments
check_host
check_machine
check_python
check_tensorrt
check_pycuda
check_files
echo "install.sh: ${model:-unknown machine}, L4T ${l4t:-none}, Python $python, TensorRT ${tensorrt:-none}"

exec {lock}<"$root/"
if ! flock --nonblock "$lock"; then
    refuse "another installation is running" "$root/ is locked" "one at a time" "wait for it to end"
fi
trap '[[ -z $staged ]] || rm -f "$staged"' EXIT

create_user
install_program
install_bundle
write_environment
install_unit

# The service is not restarted here: when a robot may stop looking is its operator's choice.
if [[ -n $dry_run ]]; then
    echo "install.sh: dry run: nothing was changed"
elif [[ -z $changed ]]; then
    echo "install.sh: already installed: nothing was changed"
else
    echo "install.sh: installed; to start it, or to move a running service to it: systemctl restart edge-cnnlstm"
fi
