# Boots a Debian of its own: processes, mounts, network and all.  Everything of it ends with this process.
#   sh -euc "$(cat machine.sh)" machine ROOT FOLDER CGROUP
# ROOT is a root file system that stays as it is, FOLDER an empty one, CGROUP one that systemd may rule.
root=$1 folder=$2 cgroup=$3

# /proc is still the one outside: it tells by which number whoever is outside knows this process.
read -r process rest </proc/self/stat
echo 0 >"$cgroup/cgroup.procs"

# What is written goes into memory, and is gone with the last process.
mount -t tmpfs -o mode=0755 machine "$folder"
mkdir "$folder/written" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=$root,upperdir=$folder/written,workdir=$folder/work" machine "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=0755,nosuid machine run
mount -t tmpfs -o mode=1777 machine tmp
mount -t tmpfs -o mode=0755,nosuid machine dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs -o mode=1777 machine dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

mkdir -p outside
pivot_root . outside
cd /
echo "machine=$process"
# The cgroup is the root of what systemd sees; `unshare` is the last thing that is used of the outside.
exec /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=unshare unshare --cgroup sh -euc '
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    umount -l /outside
    rmdir /outside
    # What a mount of one service is to be for others: no container manager has said it, so we do.
    mount --make-rshared /
    exec /lib/systemd/systemd'
