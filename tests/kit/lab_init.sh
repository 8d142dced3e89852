#!/bin/sh
# What runs first in the namespaces of a lab (see lab.py): builds its root file system, then becomes systemd.
# $1 is an empty folder, $2 one (or empty) with what the root is to have beside what this machine's has.
set -eu
root=$1/root

mount --make-rprivate /
mount -t tmpfs -o mode=755 lab "$1"
mkdir "$root" "$1/changes" "$1/scratch"
[ -z "$2" ] || cp -a "$2/." "$1/changes/" # as a layer of the overlay it would lie inside another one, which is refused
mount -t overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/scratch" overlay "$root"

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys" # the kernel's settings are the host's
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"

cgroups=$root/sys/fs/cgroup
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 "$cgroups"
else # the controllers belong to version 1 here: without them no limit of memory or tasks is kept
    mount -t tmpfs -o mode=755 cgroup "$cgroups"
    for controller in $(awk '$4 == 1 && $2 > 0 { print $1 }' /proc/cgroups); do
        mkdir "$cgroups/$controller"
        mount -t cgroup -o "$controller" cgroup "$cgroups/$controller"
    done
    mkdir "$cgroups/systemd" "$cgroups/unified"
    mount -t cgroup -o none,name=systemd cgroup "$cgroups/systemd"
    mount -t cgroup2 cgroup2 "$cgroups/unified"
fi

mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
while read -r name minor; do mknod -m 666 "$root/dev/$name" c 1 "$minor"; done <<END
null 3
zero 5
full 7
random 8
urandom 9
END
mknod -m 666 "$root/dev/tty" c 5 0
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

ip link set lo up
mkdir "$root/.host"
cd "$root"
pivot_root . .host
umount -l /.host
rmdir /.host
mount --make-rshared / # or the credentials of a service stay empty, without an error

# Only what every systemd brings up, and a target to stand on: nothing of this machine's own services and devices.
cd /etc/systemd/system
rm -rf -- *.wants
for unit in /lib/systemd/system/sysinit.target.wants/* /lib/systemd/system/timers.target.wants/* getty.target; do
    case ${unit##*/} in
    systemd-journald.service | systemd-journal-flush.service | systemd-sysusers.service | systemd-tmpfiles-setup.service) ;;
    *) ln -sf /dev/null "${unit##*/}" ;;
    esac
done
ln -sf /dev/null systemd-update-utmp.service
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' >lab.target
: >/etc/machine-id
: >/etc/fstab
echo lab >/etc/hostname
cd /
# Without what would reach the host: its clock, its kernel's modules and log.
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set -sys_time,-sys_module,-sys_rawio,-syslog,-wake_alarm --inh-caps -all \
    /lib/systemd/systemd --system --unit=lab.target
