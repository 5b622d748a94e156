#!/bin/busybox sh
# The whole initial RAM disk: load the drivers of the root disk, find the file system that the kernel's command line names
# (root=UUID=… or LABEL=… or a device), load the drivers that the boot needs next, set the kernel's variables of
# /etc/sysctl.d (so early that no interface escapes them), hand over. Written for speed: a boot pays for every process.
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t proc proc /proc
root= ; flags= ; init=/sbin/init ; mode=ro
for word in $(/bin/busybox cat /proc/cmdline); do
	case $word in
	root=*) root=${word#root=} ;;
	rootflags=*) flags=,${word#rootflags=} ;;
	init=*) init=${word#init=} ;;
	rw | ro) mode=$word ;;
	esac
done
insert() {
	while read -r module; do /bin/busybox insmod "/modules/$module" 2>/dev/null; done <"/modules/$1"
}
insert first
while read -r _ device _; do
	case $device in 80867010 | 80867111) insert ide ;; esac # the older PC's disk controller: a config drive may be there
done </proc/bus/pci/devices
attempt=0
until /bin/busybox mount -t ext4 -o "$mode$flags" "$root" /root 2>/dev/null; do
	[ "$attempt" != 0 ] || insert second
	attempt=$((attempt + 1))
	if [ "$attempt" -gt 300 ]; then
		echo "sharewright: no disk carries the root file system $root; disks seen:"
		/bin/busybox blkid
		/bin/busybox sleep 5
		exit 1
	fi
	/bin/busybox usleep 100000
done
insert last
while read -r variable value; do echo "$value" >"/proc/sys/$variable"; done </variables
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root "$init"
