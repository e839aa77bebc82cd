#!/usr/bin/env bash
# Build and test with CPython 3.14 and 3.15, a newer glibc and a newer gcc: those of Debian sid, in a root of its own.
# Needs root; debootstrap makes the root directory the first time (about a minute, and 1 GB), from ITR_SID_MIRROR, or from
# where this machine takes its own packages.
#
#   scripts/sid.sh            make the root when needed, build into build/sid and run all tests there, or those whose names
#                             match ITR_SID_TESTS, ITR_TEST_JOBS of them at a time; ITR_SID_C_TESTS=OFF: C's are not built
#   scripts/sid.sh --ready    whether the root is there and complete (exit status)
#   scripts/sid.sh -- COMMAND [ARGUMENT...]    run a command in the root, in the source tree
set -euo pipefail
cd "$(dirname "$0")/.."
source_tree=$PWD
root=${ITR_SID_ROOT:-/var/cache/interruptible-threading/sid}
packages=(python3.14-full python3.14-dev python3.15-full python3.15-dev
    gcc libc6-dev make cmake pkg-config libcmocka-dev ca-certificates openssl)
inside=/src # where the source tree appears in the root
mounted=()

in_root() { chroot "$root" /usr/bin/env "$@"; }

complete() {
    [ -x "$root/usr/bin/env" ] || return 1
    in_root sh -c 'python3.14 -c "import ensurepip" && python3.15 -c "import ensurepip" &&
        test -e /usr/include/python3.14/Python.h && test -e /usr/include/python3.15/Python.h &&
        gcc --version && make --version && cmake --version && openssl version &&
        pkg-config --exists cmocka' >/dev/null 2>&1
}

unmount() {
    local i
    for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do
        umount --recursive "${mounted[i]}" 2>/dev/null || umount --lazy --recursive "${mounted[i]}" || true
    done
    mounted=()
}

bind() { # bind FROM TO [OPTIONS]: the folder FROM appears at TO in the root until this script ends
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mounted+=("$root$2")
    [ -z "${3:-}" ] || mount -o "remount,bind,$3" "$root$2"
}

debian_archive() { # the archive that this machine's package sources name: sid is in it too
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(SITE)' 'Created-By: Packages' |
        sed -n 's/^Debian|Debian|main|//p' | sort -u | while read -r uri; do
        case $uri in
        mirror+file:*) grep -oE '^[^#[:space:]]+' "${uri#mirror+file:}" ;; # a list of mirrors
        *) printf '%s\n' "$uri" ;;
        esac
    done | sed -n 1p
}

make_root() {
    local mirror=${ITR_SID_MIRROR:-}
    if [ -z "$mirror" ] && command -v apt-get >/dev/null; then
        mirror=$(debian_archive) || true
        if [ -z "$mirror" ]; then # it says whose archive one is only when its index has been fetched
            apt-get -qq -o DPkg::Lock::Timeout=300 update || true
            mirror=$(debian_archive) || true
        fi
    fi
    [ -n "$mirror" ] || {
        echo "sid: no Debian archive is among this machine's package sources; set ITR_SID_MIRROR to the address of one" >&2
        exit 1
    }
    command -v debootstrap >/dev/null || {
        echo "sid: debootstrap is not installed" >&2
        exit 1
    }
    local list attempt
    list=$(IFS=,; echo "${packages[*]}")
    for attempt in 1 2 3; do
        echo "sid: making $root from $mirror (attempt $attempt)"
        rm -rf --one-file-system "$root.new"
        if debootstrap --variant=minbase --include="$list" sid "$root.new" "$mirror" >"$root.log" 2>&1; then
            mv "$root.new" "$root"
            return
        fi
        tail -n 5 "$root.log" >&2
    done
    echo "sid: debootstrap failed; its log is $root.log" >&2
    exit 1
}

complete_root() { # add what an older root lacks
    echo "sid: completing $root"
    in_root DEBIAN_FRONTEND=noninteractive sh -c 'apt-get -qq -o Acquire::Check-Valid-Until=false update &&
        apt-get -qq install --yes --no-install-recommends "$@"' sh "${packages[@]}" >"$root.log" 2>&1 && complete || {
        tail -n 5 "$root.log" >&2
        echo "sid: $root cannot be completed; remove it to have it made anew" >&2
        exit 1
    }
}

pip_sources() { # folders of this machine that pip is configured to take packages from
    {
        printf '%s\n' "${PIP_FIND_LINKS:-}" "${PIP_INDEX_URL:-}" "${PIP_EXTRA_INDEX_URL:-}"
        cat /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf 2>/dev/null || true
    } | grep -oE '(^|[ =,]|file://)/[^ ,;]+' | sed -E 's,^(file://|[ =]),,' | while read -r folder; do
        folder=${folder%/}
        folder=${folder%/simple} # the pages of an index lead to files beside it
        [ ! -d "$folder" ] || printf '%s\n' "$folder"
    done | sort -u
}

configure_root() { # the network and pip work as they do outside
    local file
    for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
        [ ! -e "$file" ] || cp --remove-destination -L "$file" "$root$file"
    done
    if [ -e ~/.config/pip/pip.conf ]; then
        mkdir -p "$root/root/.config/pip"
        cp ~/.config/pip/pip.conf "$root/root/.config/pip/pip.conf"
    fi
}

if [ "${1:-}" = --ready ]; then
    complete || exit 1
    exit 0
fi
[ "$(id -u)" = 0 ] || {
    echo "sid: needs root" >&2
    exit 1
}
mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9 # one at a time: the mounts are shared
trap unmount EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -d "$root" ] || make_root
configure_root
complete || complete_root

mount -t proc proc "$root/proc"
mounted+=("$root/proc")
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
mounted+=("$root/dev")
bind "$source_tree" "$inside"
while read -r folder; do
    bind "$folder" "$folder" ro
done < <(pip_sources)

variables=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8)
while IFS='=' read -r name value; do
    variables+=("$name=$value")
done < <(env | grep -E '^(PIP_[A-Z_]+|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|[a-zA-Z]+_proxy|[A-Z]+_PROXY|CI|JOBS|ITR_[A-Z_]+)=' |
    grep -vE '^ITR_(SID|PYTHONS|REQUIRE_SERVERS)') # those are about what is outside: the root has no servers

run() { in_root -i --chdir="$inside" "${variables[@]}" "$@"; }

if [ "${1:-}" = -- ]; then
    shift
    run "$@"
    exit
fi
pythons=$(run python3.14 scripts/pythons.py --venvs build/sid/venv /usr/bin/python3.14 /usr/bin/python3.15)
run cmake --preset sid -DITR_PYTHONS="$pythons" -DITR_C_TESTS="${ITR_SID_C_TESTS:-ON}"
run cmake --build --preset sid --parallel "${JOBS:-$(nproc)}"
run ctest --preset sid --parallel "${ITR_TEST_JOBS:-2}" -R "${ITR_SID_TESTS:-.}"
