#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./dev from clean clones, on the host: usage, exit statuses, folders, two clones at once, and nothing left behind. Not
# inside the environment itself: exit status 77 (skipped) there. Run: tests/integration/dev_environment_test.sh
set -uo pipefail
[ -z "${QUANT_DEV_INSIDE:-}" ] || { echo "skipped: this test is for the host, outside of ./dev"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skipped: this test makes clones as root"; exit 77; }
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d /tmp/dev-test.XXXXXX)
failures=0
trap 'rm -rf --one-file-system "$work"' EXIT

check() {  # check WHAT COMMAND…: fails unless COMMAND is true
  local what=$1; shift
  if "$@"; then echo "ok      $what"; else echo "FAILED  $what"; failures=$((failures + 1)); fi
}
is() { [ "$1" = "$2" ] || { echo "  wanted '$2', got '$1'"; return 1; }; }
status_of() { "$@" >"$work/out" 2>"$work/err" </dev/null; echo $?; }
mounts() { grep -c -e "$work" /proc/mounts; }
processes() { pgrep -fc "^[^ ]*(unshare|tini|chroot) .*$work"; }

git clone -q "$top" "$work/one" && git clone -q "$top" "$work/two" || { echo "cannot clone $top"; exit 1; }
cd "$work/one" || exit 1
mounts_before=$(mounts)
listing() { (cd "$work/one" && git status --porcelain --ignored); }

check "--help is exit status 0" is "$(status_of ./dev --help)" 0
for word in setup build test demo bench lint format shell; do check "--help names $word" grep -q "^  $word" "$work/out"; done
check "no command is exit status 2" is "$(status_of ./dev)" 2
check "an unknown command is exit status 2" is "$(status_of ./dev biuld)" 2
check "its message names it" grep -q biuld "$work/err"
check "an unknown option of test is exit status 2" is "$(status_of ./dev test --nonsense)" 2
check "an unknown --with is exit status 2" is "$(status_of ./dev --with nothing shell true)" 2
check "usage leaves nothing in the clone" is "$(listing)" ""

check "setup" is "$(status_of ./dev setup)" 0
check "shell gives its command's exit status" is "$(status_of ./dev shell bash -c 'exit 37')" 37
check "shell ends by a signal as shells say" is "$(status_of ./dev shell bash -c 'kill -TERM $$')" 143
check "a command that is not there is 127" is "$(status_of ./dev shell no-such-command)" 127
mkdir -p deep/er
check "shell runs in the caller's folder" is "$(cd deep/er && ../../dev shell pwd)" "$work/one/deep/er"
check "shell keeps arguments apart" is "$(./dev shell printf '<%s>' 'a b' '' '*' '$HOME')" '<a b><><*><$HOME>'
check "shell passes stdin on" is "$(echo hello | ./dev shell cat)" hello
check "shell is Debian 13" is "$(./dev shell bash -c '. /etc/os-release; echo $VERSION_CODENAME')" trixie
check "files made inside are here" is "$(./dev shell touch made && ls made)" made
rm -rf made deep

(./dev shell bash -c 'sleep 1; echo one' >"$work/first") &
(cd "$work/two" && ./dev shell bash -c 'sleep 1; echo two' >"$work/second") &
wait
check "two clones at once" is "$(cat "$work/first" "$work/second" | tr '\n' ' ')" "one two "

# Killed in the middle: its processes go too, and the next run works.
nap=$((100000 + $$))  # no other sleep is as long
./dev shell sleep $nap & killed=$!
for _ in $(seq 200); do pgrep -fx "sleep $nap" >/dev/null && break; sleep 0.05; done
kill -9 "$killed"; wait "$killed" 2>/dev/null
for _ in $(seq 200); do pgrep -fx "sleep $nap" >/dev/null || break; sleep 0.05; done
check "kill -9 of ./dev takes its command along" is "$(pgrep -fxc "sleep $nap")" 0
check "a run after a killed one" is "$(status_of ./dev shell true)" 0

check "no mount is left" is "$(mounts)" "$mounts_before"
check "no process is left" is "$(processes)" 0
check "no file is left in the clone" is "$(listing)" ""
echo "$failures failed"
[ "$failures" = 0 ]
