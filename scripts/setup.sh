#!/usr/bin/env bash
# Install what is missing to build and test: Debian packages (as root, with apt), and the Python tools in .venv.
# Without root it names the packages instead. Does nothing, quickly, when nothing is missing.
#
#   scripts/setup.sh          what "make demo" needs
#   scripts/setup.sh --all    and what "make lint" and "make check" need: among it, as root, the servers that clients are
#                             tested with, Go and jemalloc. Without them those tests are skipped, so otherwise they are
#                             only named; as is valgrind, which "make check-all" takes.
set -euo pipefail
cd "$(dirname "$0")/.."

all=${CI:-}
[ "${1:-}" != --all ] || all=true
venv=${VENV:-.venv}
tools=requirements/tools.txt

have() { command -v "$1" >/dev/null 2>&1; }

at_least() { # at_least WANTED ACTUAL: whether version ACTUAL is not older
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

missing=()
need() { # need PACKAGE CHECK...: remember the package when the check fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

wish() { # wish PACKAGE CHECK...: the same for what tests can do without
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || wished+=("$package")
}
wished=()
have_daemon() { PATH=$PATH:/usr/sbin:/usr/local/sbin have "$1"; }

cmake_is_new_enough() { have cmake && at_least 3.25 "$(cmake --version | sed -n '1s/.* //p')"; }
# On Debian, its own interpreter, which is linked statically other than most, is tested too: where there is one, or
# everything is wanted.
no_debian_python() { [ -z "$all" ] && [ ! -x /usr/bin/python3 ]; }
debian_python() { no_debian_python || compgen -G '/usr/include/python3.*/Python.h'; }
debian_venv() { no_debian_python || /usr/bin/python3 -I -c 'import ensurepip'; }

need cmake cmake_is_new_enough
need gcc have gcc
need libc6-dev test -e /usr/include/stdio.h
need make have make
need pkg-config have pkg-config
need libcmocka-dev pkg-config --exists cmocka
need openssl have openssl
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
if have apt-get; then
    need python3-dev debian_python
    need python3-venv debian_venv
fi
if [ -n "$all" ]; then
    need clang-format have clang-format
    need clang-tidy have clang-tidy
    need cppcheck have cppcheck
    # Makes the root of Debian sid, as root only.
    ! have apt-get || [ "$(id -u)" != 0 ] || need debootstrap have debootstrap
fi

wish valgrind have valgrind
if have apt-get; then
    wish postgresql compgen -G '/usr/lib/postgresql/*/bin/initdb'
    wish mariadb-server-core have_daemon mariadbd
    wish mariadb-client-core have mariadb-install-db
    wish redis-server have_daemon redis-server
    wish memcached have_daemon memcached
    wish libmariadb-dev have mariadb_config
    wish golang-go have go
    wish libjemalloc2 compgen -G '/usr/lib/*/libjemalloc.so.2'
fi
if [ ${#wished[@]} -gt 0 ]; then
    if [ -n "$all" ] && [ "$(id -u)" = 0 ]; then
        missing+=("${wished[@]}")
    else
        echo "setup: some tests (clients of servers, other runtimes, valgrind) need packages that are not installed, and are skipped without:" >&2
        echo "    ${wished[*]}" >&2
    fi
fi

if [ ${#missing[@]} -gt 0 ]; then
    if have apt-get && [ "$(id -u)" = 0 ]; then
        echo "setup: installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        export RUNLEVEL=1 # the tests start servers of their own: none is to be started by its installation
        apt-get -qq -o DPkg::Lock::Timeout=300 update || echo "setup: apt-get update failed; going on with the package lists there are" >&2
        apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "${missing[@]}" >/dev/null
        hash -r
        cmake_is_new_enough || {
            echo "setup: CMake 3.25 or later is needed; try: pip install cmake" >&2
            exit 1
        }
    else
        echo "setup: please install these (names of Debian's packages) and run this again:" >&2
        echo "    ${missing[*]}" >&2
        exit 1
    fi
fi

python=${PYTHON:-python3}
stamp="$("$python" -c 'import sys; print(sys.executable, sys.version)') $(cat "$tools")"
if [ "$(cat "$venv/ready" 2>/dev/null)" != "$stamp" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || {
        echo "setup: $python is older than 3.9; set PYTHON to a later one" >&2
        exit 1
    }
    echo "setup: making $venv"
    mkdir -p "$venv"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name 'test-*' -exec rm -rf {} +
    "$python" -m venv "$venv"
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install -qq --require-hashes --only-binary :all: -r "$tools"
    printf '%s' "$stamp" >"$venv/ready"
fi
