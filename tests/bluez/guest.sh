# The second half of guest-init.sh, inside the host's file system: services and tests.
. "${0%/*}/guest.env"
export HOME=/run PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$PROJECT" IOMT_BLUEZ=1
umask 022
mkdir -p /run/dbus
dbus-uuidgen --ensure=/run/machine-id
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket
dbus-daemon --system --fork --nopidfile --address="$DBUS_SYSTEM_BUS_ADDRESS"
for daemon in /usr/libexec/bluetooth/bluetoothd /usr/lib/bluetooth/bluetoothd; do
    [ -x "$daemon" ] && break
done
# Like systemd's Restart=on-failure.
while :; do
    "$daemon" -n >>"$RESULTS/bluetoothd.log" 2>&1
    echo "bluetoothd ended with status $?" >>"$RESULTS/bluetoothd.log"
    sleep 1
done &
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    dbus-send --system --print-reply --dest=org.freedesktop.DBus / \
        org.freedesktop.DBus.NameHasOwner string:org.bluez 2>/dev/null |
        grep -q true && break
    sleep 0.5
done
echo "BlueZ $("$daemon" -v), Linux $(uname -r)"
cd "$PROJECT" || exit 1
eval "set -- $ARGUMENTS"
"$PYTHON" -m pytest -v -p no:cacheprovider --timeout 200 --durations 8 -rA \
    --junitxml "$RESULTS/junit.xml" "$@"
echo $? >"$RESULTS/exit-status"
