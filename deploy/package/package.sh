#!/usr/bin/env bash
# Makes the archives that are installed from: a .tar.gz with everything, and a .deb.
#
#   package.sh VERSION BINARY OUTDIR
#
# BINARY is a roost that runs here. The same files give the same archives, byte by byte, when
# SOURCE_DATE_EPOCH is set.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
[ $# -eq 3 ] || { sed -n '2,7p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2; exit 2; }
version=$1 binary=$2
mkdir -p "$3"
out=$(cd "$3" && pwd)
: "${SOURCE_DATE_EPOCH:=$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

case $(uname -m) in
  x86_64) arch=amd64 ;;
  aarch64) arch=arm64 ;;
  *) arch=$(uname -m) ;;
esac
# Debian's versions begin with a digit and have no '-' that means anything else.
deb_version=${version#v}
case $deb_version in
  [0-9]*.*) ;;
  *) deb_version="0.0~git.$deb_version" ;;
esac
deb_version=${deb_version//-/.}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
tree=$tmp/tree
umask 022

put() { install -D -m "$1" "$2" "$tree/$3"; }
put 755 "$binary" usr/bin/roost
put 644 "$root/deploy/systemd/roost.service" usr/lib/systemd/system/roost.service
put 644 "$root/deploy/systemd/roost-node.service" usr/lib/systemd/system/roost-node.service
put 644 "$root/deploy/systemd/sysusers.conf" usr/lib/sysusers.d/roost.conf
put 644 "$root/deploy/sysctl/60-roost.conf" usr/lib/sysctl.d/60-roost.conf
put 644 "$root/deploy/config/roost.yaml" etc/roost/roost.yaml
put 600 "$root/deploy/config/roost.env" etc/roost/roost.env
put 600 "$root/deploy/config/node.env" etc/roost/node.env
install -d -m 750 "$tree/etc/roost/tls"
for doc in README.md CHANGELOG.md; do put 644 "$root/$doc" "usr/share/doc/roost/$doc"; done
for doc in "$root"/docs/*.md; do put 644 "$doc" "usr/share/doc/roost/$(basename "$doc")"; done
put 644 "$root/protocol/SPEC.md" usr/share/doc/roost/SPEC.md
for example in haproxy/haproxy.cfg grafana/roost.json prometheus/alerts.yaml prometheus/prometheus.yaml kubernetes/roost.yaml; do
  put 644 "$root/deploy/$example" "usr/share/doc/roost/examples/$example"
done
mkdir -p "$tree/usr/share/bash-completion/completions"
"$binary" completion bash >"$tree/usr/share/bash-completion/completions/roost"

find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
name=roost_${version}_linux_${arch}
tar -C "$tree" --sort=name --owner=0 --group=0 --numeric-owner --transform "s#^\./#$name/#" -c ./etc ./usr | gzip -n >"$out/$name.tar.gz"
echo "$out/$name.tar.gz"

command -v dpkg-deb >/dev/null || { echo "package.sh: no dpkg-deb here: no .deb" >&2; exit 0; }
mkdir "$tree/DEBIAN"
# What the binary was linked with is what it needs.
glibc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$binary" | sort -Vu | tail -1)
size=$(du -sk --apparent-size "$tree" | cut -f1)
sed -e "s/@VERSION@/$deb_version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$size/" -e "s/@GLIBC@/${glibc#GLIBC_}/" "$here/control" >"$tree/DEBIAN/control"
printf '%s\n' /etc/roost/roost.yaml /etc/roost/roost.env /etc/roost/node.env >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 755 "$here/$script" "$tree/DEBIAN/$script"; done
find "$tree/DEBIAN" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
deb=$out/roost_${deb_version}_${arch}.deb
dpkg-deb --root-owner-group -Zgzip --build "$tree" "$deb" >/dev/null
echo "$deb"
