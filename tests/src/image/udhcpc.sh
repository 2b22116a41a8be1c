#!/bin/busybox sh
# What udhcpc calls: keeps all it was told in a file, and puts a lease into force.
env >"/tmp/lease.$interface"
case "$1" in
deconfig)
    ip -4 address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    ip address add "$ip/$mask" dev "$interface" 2>/dev/null
    if [ -n "$staticroutes" ]; then
        # RFC 3442: these routes instead of the router; 0.0.0.0 is on-link.
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            if [ "$2" = 0.0.0.0 ]; then
                ip route replace "$1" dev "$interface" src "$ip"
            else
                ip route replace "$1" via "$2" dev "$interface"
            fi
            shift 2
        done
    else
        for one in $router; do
            ip route replace default via "$one" dev "$interface"
            break
        done
    fi
    : >/etc/resolv.conf
    for one in $dns; do
        echo "nameserver $one" >>/etc/resolv.conf
    done
    ;;
esac
