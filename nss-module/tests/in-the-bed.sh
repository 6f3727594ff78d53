#!/usr/bin/env bash
# Runs in tests/bed: the module in its place, asked through glibc by real programs.
#   in-the-bed.sh MODULE DRIVER SNAPSHOT
set -euo pipefail
module=$1 driver=$2 snapshot=$3

# Before the module is there: useradd would find these names taken.
useradd --uid 1900000007 --gid users --no-create-home --shell /bin/sh bob
groupadd --gid 1900000020 ops
groupadd --gid 1900000021 crew
echo 'bob:1900000100:10' >>/etc/subuid
echo 'bob:1900000200:10' >>/etc/subgid
mkdir -p /etc/countersign
echo 'refuse = fred' >/etc/countersign/nss.conf
installed=$(dirname "$(ldd /bin/ls | awk '/libc\.so\.6/ { print $3 }')")/libnss_countersign.so.2
cp "$module" "$installed"
mkdir -p /var/lib/countersign/snapshot
mount --bind "$snapshot" /var/lib/countersign/snapshot
printf 'passwd: files countersign\ngroup: files countersign\n' >/etc/nsswitch.conf

expect() { # expect WHAT WANTED COMMAND…
  local what=$1 wanted=$2 found status=0
  shift 2
  found=$("$@") || status=$?
  if [[ "$found ($status)" != "$wanted" ]]; then
    printf '%s: expected [%s], found [%s (%s)]\n' "$what" "$wanted" "$found" "$status" >&2
    exit 1
  fi
}

expect 'by name' 'alice:*:1900000000:1900000000:Some? One?:/home/alice:/bin/bash (0)' getent passwd alice
expect 'by number' 'alice:*:1900000000:1900000000:Some? One?:/home/alice:/bin/bash (0)' getent passwd 1900000000
expect 'a removed user' 'gone:*:1900000003:1900000003:Some? One?:/home/gone:/usr/sbin/nologin (0)' getent passwd 1900000003
expect 'a group' 'devs:*:1900000010:alice (0)' getent group devs
expect 'a group by number' 'devs:*:1900000010:alice (0)' getent group 1900000010
expect 'id' 'uid=1900000000(alice) gid=1900000000(alice) groups=1900000000(alice),1900000010(devs) (0)' id alice
expect 'nobody of that name' ' (2)' getent passwd nosuchuser
expect 'a user whose group the host has' ' (2)' getent passwd dora
expect 'a user whose number is in subuid' ' (2)' getent passwd erin
expect 'that number' ' (2)' getent passwd 1900000105
expect 'a group whose number is in subgid' ' (2)' getent group crane
expect 'a name that nss.conf refuses' ' (2)' getent passwd fred
"$driver" groups alice 1900000000 2
"$driver" groups alice 1900000099 1
"$driver" error nosuchuser 0
# The host's own come first, and where nsswitch.conf has the order wrong they still win.
for order in 'files countersign' 'countersign files'; do
  printf 'passwd: %s\ngroup: %s\n' "$order" "$order" >/etc/nsswitch.conf
  expect "bob, $order" 'bob:x:1900000007:100::/home/bob:/bin/sh (0)' getent passwd bob
  expect "bob's number, $order" 'bob:x:1900000007:100::/home/bob:/bin/sh (0)' getent passwd 1900000007
  expect "bob's groups, $order" 'users (0)' id --groups --name bob
  expect "a local group's number, $order" 'ops:x:1900000020: (0)' getent group 1900000020
  expect "root, $order" 'root (0)' id --user --name root
done
# Asked for alone: the host's own file does not answer first, and the name of power is still not there.
printf 'passwd: countersign\ngroup: countersign\n' >/etc/nsswitch.conf
for name in sudo wheel root systemd-journal bob; do
  expect "group $name" ' (2)' getent group "$name"
  expect "user $name" ' (2)' getent passwd "$name"
done
printf 'passwd: files countersign\ngroup: files countersign\n' >/etc/nsswitch.conf
expect 'a listing has the host alone' '0 (0)' bash -c "getent passwd | grep -c '^alice:' || true"

"$driver" sizes "$installed" alice devs
"$driver" reload 20 "$installed" alice
"$driver" cancel "$installed" alice
valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$driver" reload 10000 "$installed" alice
# The publisher outside goes on publishing meanwhile.
"$driver" threads 64 40 alice 1900000000
pids=()
for _ in {1..64}; do
  getent passwd alice >/dev/null &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done

# A damaged, then a missing snapshot: no answer, no crash, and the host's own users are there.
umount /var/lib/countersign/snapshot
expect 'no snapshot' ' (2)' getent passwd alice
# EIO: callers must not take it for "no such user".
"$driver" error alice 5
expect 'root without a snapshot' 'root (0)' id --user --name root
mkdir -p /var/lib/countersign/snapshot/accounts
head --bytes 512 /dev/zero >/var/lib/countersign/snapshot/accounts/manifest
expect 'zeros for a manifest' ' (2)' getent passwd alice
expect 'root beside zeros' 'root (0)' id --user --name root
echo 'all of it'
