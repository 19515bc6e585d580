#!/usr/bin/env bash
# Install what everything else needs: missing host packages, a virtualenv in the cache, and .venv as a link to it.
#   local/setup.sh [purpose or requirements file]...     default: dev, which is requirements/dev.txt
# The last line of stdout is the virtualenv's path; progress goes to stderr. Exit code 2: something is missing; the last line names it.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${ORDERFLOW_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or ORDERFLOW_CACHE}/.cache}/orderflow}
servers_given=${ORDERFLOW_AMQP_URL:+${ORDERFLOW_DATABASE_URL:+yes}}

say() { echo "setup: $*" >&2; }
refuse() { say "$*"; exit 2; }

newest_python() {
  local minor
  for minor in 14 13 12 11; do
    if "python3.$minor" -c 'import sys' >/dev/null 2>&1; then echo "python3.$minor"; return; fi
  done
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
  echo python3
}

missing_packages() {
  "$1" -c 'import venv, ensurepip' 2>/dev/null || echo "$(basename "$1")-venv"
  [ -n "$servers_given" ] && return
  command -v mmdebstrap >/dev/null || echo "mmdebstrap debian-archive-keyring"
  command -v unshare >/dev/null && command -v setpriv >/dev/null || echo "util-linux mount"
}

install_packages() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    case "$*" in
      *-venv*) refuse "this Python cannot create virtualenvs: install its venv package ($1), then run this again." ;;
    esac
    say "the servers need root on Debian or Ubuntu (to install $*). Tests without servers work; for the others" \
      "set ORDERFLOW_AMQP_URL, ORDERFLOW_MANAGEMENT_URL and ORDERFLOW_DATABASE_URL to your own servers."
    return
  fi
  say "installing $*"
  {
    apt-get install -y --no-install-recommends "$@" ||
      { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; }
  } </dev/null >&2 || refuse "apt-get could not install $*; install them by hand, then run this again."
}

# fill VENV FILE...: builds from scratch, because a killed run may have left files. The steps are chained because `set -e`
# has no effect in a function whose failure is handled by its caller.
fill() {
  local venv=$1 files=() file
  shift
  for file in "$@"; do files+=(-r "$file"); done
  rm -rf "$venv" &&
    "$python" -m venv "$venv" &&
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
      -r "$checkout/requirements/bootstrap.txt" >&2 &&
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes "${files[@]}" >&2 &&
    touch "$venv/.complete"
}

python=$(newest_python) || refuse "Python 3.11 or newer is needed and no python3 on PATH is; install one, then run this again."
missing=$(missing_packages "$python")
# shellcheck disable=SC2086  # one package per word
[ -z "$missing" ] || install_packages $missing

files=()
for purpose in "${@:-dev}"; do
  if [ -f "$purpose" ]; then files+=("$(realpath "$purpose")"); else files+=("$checkout/requirements/$purpose.txt"); fi
  [ -f "${files[-1]}" ] || refuse "no requirement file for '$purpose' in requirements/"
done

# A virtualenv cannot be moved, so it is built in its final place and is valid when its marker exists.
# The base interpreter is part of the key, because a virtualenv refers to it.
version=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')
key=$({ echo "1 $version"; cat "$checkout/requirements/bootstrap.txt" "${files[@]}"; } | sha256sum | cut -c1-16)
venv=$cache/venvs/$key
mkdir -p "$cache/venvs"
if [ ! -e "$venv/.complete" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
  exec 9>"$cache/venvs/$key.lock"
  flock 9
  if [ ! -e "$venv/.complete" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "creating a virtualenv with $python for ${*:-dev}"
    fill "$venv" "${files[@]}" || refuse "the virtualenv could not be created; the lines above say why."
  fi
  exec 9>&-
fi
if [ -e "$checkout/.venv" ] && [ ! -L "$checkout/.venv" ]; then
  refuse ".venv is a folder that this script did not create; move it away, then run this again."
fi
ln -sfn "$venv" "$checkout/.venv.$$" && mv -T "$checkout/.venv.$$" "$checkout/.venv"
echo "$venv"
