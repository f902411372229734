#!/bin/busybox sh
# The first process of the virtual machine (machine.py): the host's files under an
# overlay, then D-Bus, bluetoothd and the tests. "iomt=DIRECTORY" on the kernel's line is
# where the host takes the results; everything else that is written is forgotten.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do
    $b insmod "$module" || echo "$module is not loaded"
done
for word in $($b cat /proc/cmdline); do
    case $word in iomt=*) results=${word#iomt=} ;; esac
done
stop() {
    $b sync
    $b reboot -f
}
options=trans=virtio,version=9p2000.L,msize=262144
$b mount -t 9p -o $options,ro,cache=loose host /host || stop
$b mount -t tmpfs -o mode=755 over /over || stop
$b mkdir /over/upper /over/work
$b mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work \
    overlay /whole || stop
for place in proc sys dev; do $b mount -o bind /$place /whole/$place; done
$b mkdir -p /whole/dev/shm /whole/var/lib/bluetooth "/whole$results"
for place in run dev/shm var/lib/bluetooth; do
    $b mount -t tmpfs -o mode=1777 tmpfs /whole/$place
done
$b mount -t 9p -o $options,rw out "/whole$results" || stop
$b ip link set lo up
echo "IOMT-BOOTED after $($b cut -d' ' -f1 /proc/uptime) s"
$b chroot /whole /bin/sh "$results/guest.sh"
echo "the guest ends after $($b cut -d' ' -f1 /proc/uptime) s"
stop
