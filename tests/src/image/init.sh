#!/bin/busybox sh
# The first process of a test guest: devices, modules, then the agent on the second serial port, for ever.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "init: $module was not loaded"
done
ip link set lo up
# For tests with many connections.
ulimit -n 4096
stty -F /dev/ttyS1 raw -echo
while :; do
    towpath-guest-agent /dev/ttyS1
    echo "init: the agent ended, starting it again"
done
