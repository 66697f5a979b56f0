#!/usr/bin/env bash
# Checks archives that package.sh made: that all is in them, with the right modes; that the
# binary runs and has the version; that systemd takes the units and finds little to attack.
#
#   check.sh VERSION ARCHIVE...
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2; exit 2; }
version=$1
shift
die() { echo "check.sh: $*" >&2; exit 1; }

# mode, path
expected='755 usr/bin/roost
644 usr/lib/systemd/system/roost.service
644 usr/lib/systemd/system/roost-node.service
644 usr/lib/sysusers.d/roost.conf
644 usr/lib/sysctl.d/60-roost.conf
644 etc/roost/roost.yaml
600 etc/roost/roost.env
600 etc/roost/node.env
750 etc/roost/tls
644 usr/share/doc/roost/OPERATIONS.md
644 usr/share/doc/roost/GUARANTEES.md
644 usr/share/doc/roost/examples/haproxy/haproxy.cfg
644 usr/share/doc/roost/examples/prometheus/alerts.yaml
644 usr/share/doc/roost/examples/grafana/roost.json
644 usr/share/bash-completion/completions/roost'

for archive in "$@"; do
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  case $archive in
    *.deb)
      # Roughly what apt would refuse, too.
      dpkg-deb --field "$archive" Package Version Architecture Depends >/dev/null
      if dpkg-deb --contents "$archive" | awk '$2 != "root/root" {print; bad=1} END {exit !bad}'; then
        die "$archive: not everything is root's"
      fi
      dpkg-deb --raw-extract "$archive" "$tmp"
      for script in postinst prerm postrm; do sh -n "$tmp/DEBIAN/$script"; done
      while read -r conf; do [ -f "$tmp$conf" ] || die "$archive: conffile $conf is missing"; done <"$tmp/DEBIAN/conffiles"
      ;;
    *.tar.gz) tar -xzf "$archive" -C "$tmp" --strip-components=1 -p ;;
    *) die "$archive: neither .deb nor .tar.gz" ;;
  esac
  while read -r mode path; do
    [ -e "$tmp/$path" ] || die "$archive: $path is missing"
    got=$(stat -c %a "$tmp/$path")
    [ "$got" = "$mode" ] || die "$archive: $path has mode $got, not $mode"
  done <<<"$expected"
  said=$("$tmp/usr/bin/roost" --version)
  [ "$said" = "roost version $version" ] || die "$archive: the binary says: $said"
  "$tmp/usr/bin/roost" serve --help >/dev/null

  if command -v systemd-analyze >/dev/null; then
    for unit in roost.service roost-node.service; do
      # As installed, but with the binary where it is here. Warnings count, too.
      sed "s#/usr/bin/roost#$tmp/usr/bin/roost#; /^Documentation=/d" "$tmp/usr/lib/systemd/system/$unit" >"$tmp/$unit"
      said=$(systemd-analyze verify --man=no "$tmp/$unit" 2>&1) || die "$archive: $unit: $said"
      [ -z "$said" ] || die "$archive: $unit: $said"
      # Of 100: 14 and 17 when this was written.
      systemd-analyze security --no-pager --offline=true --threshold=25 "$tmp/$unit" >"$tmp/security" || die "$archive: $unit: $(tail -1 "$tmp/security")"
    done
  fi
  rm -rf "$tmp"
done
