#!/bin/sh
# First process of a machine that runs on this computer's own kernel. It is already in mount, pid, uts, ipc and network
# namespaces of its own; it makes the machine's root, joins a cgroup of its own, and becomes the machine's systemd.
# Arguments: image tree, machine directory, the machine's cgroup below the root of the v2 tree.
set -eu
tree=$1 machine=$2 group=$3

if [ "${FLEET_STAGE:-1}" = 1 ]; then
    mount --make-rprivate /
    # systemd wants a cgroup v2 tree of its own; the parent process must not be inside it.
    groups=$machine/groups
    mkdir -p "$groups"
    mount -t cgroup2 cgroup2 "$groups"
    mkdir -p "$groups/$group/machine"
    echo $$ >"$groups/$group/machine/cgroup.procs"
    umount "$groups"
    FLEET_STAGE=2 exec unshare --cgroup /bin/sh "$0" "$@"
fi

# The network card is put in from outside.
count=0
until ip link show dev vec0 >/dev/null 2>&1; do
    count=$((count + 1))
    [ "$count" -lt 200 ] || { echo "no network card after 10 s" >&2; exit 1; }
    sleep 0.05
done

root=$machine/root
mkdir -p "$root" "$machine/upper" "$machine/work"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$machine/upper,workdir=$machine/work" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
# Kernel settings belong to the computer, except those of this machine's own network.
mount -o bind "$root/proc/sys" "$root/proc/sys"
mount -o bind "$root/proc/sys/net" "$root/proc/sys/net"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/run"
mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# Nodes of its own, not the computer's: what the machine does to their modes and owners stays inside.
node() { mknod -m 666 "$root/dev/$1" c "$2" "$3"; }
node null 1 3
node zero 1 5
node full 1 7
node random 1 8
node urandom 1 9
node tty 5 0
node console 1 3

cd "$root"
mkdir -p mnt/outside
pivot_root . mnt/outside
umount -l /mnt/outside
exec env -i container=fleet-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-sys_boot,-mac_admin,-mac_override /sbin/init
