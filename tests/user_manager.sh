# Run the user's service under a real user manager, in namespaces that end with this script:
#
#   unshare --pid --fork --mount --mount-proc --kill-child sh tests/user_manager.sh FOLDER CLOSED NEEDED
#
# FOLDER holds the unit, a drop-in, the program, the settings and sound.wav. CLOSED: folders that the user cannot enter,
# NEEDED: those that it must be able to read, each separated by colons. Prints NAME=VALUE; 77 where it cannot be tried.
set -eu
folder=$1 closed=$2 needed=$3
user=12345 name=snn-detect-tester home=/run/home

mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/systemd/unit-root /run/keep "$home/.config/systemd/user/snn-detect.service.d" \
  "$home/.config/snn-detect" "$home/bin"
IFS=:
for path in $needed; do mkdir -p "/run/keep$path" && mount --bind "$path" "/run/keep$path"; done
cp "$folder/snn-detect.service" "$home/.config/systemd/user"
cp "$folder/drop-in.conf" "$home/.config/systemd/user/snn-detect.service.d"
cp "$folder/config.toml" "$home/.config/snn-detect"
cp "$folder/program" "$home/bin/snn-detect" && chmod 755 "$home/bin/snn-detect"
cp "$folder/sound.wav" "$home"
printf 'pcm.!default { type pulse }\nctl.!default { type pulse }\n' >"$home/.asoundrc"
for path in $closed; do mount -t tmpfs -o mode=755 none "$path"; done
for path in $needed; do mkdir -p "$path" && mount --bind "/run/keep$path" "$path"; done
unset IFS

cp /etc/passwd /run/passwd && echo "$name:x:$user:$user::$home:/bin/sh" >>/run/passwd
mount --bind /run/passwd /etc/passwd
# The manager needs a control group of its own, in whichever of the hierarchies there are.
for group in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
  test -e "$group/cgroup.procs" || continue
  mkdir -p "$group/$name" 2>/dev/null && echo $$ >"$group/$name/cgroup.procs" || exit 77
  chown -R "$user" "$group/$name"
done
export HOME=$home XDG_RUNTIME_DIR=/run/user/$user
mkdir -m 755 /run/user && mkdir -m 700 "$XDG_RUNTIME_DIR" && chown -R "$user" "$home" "$XDG_RUNTIME_DIR"

cat >/run/as_user.sh <<'INNER'
export DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus PULSE_SERVER=unix:$XDG_RUNTIME_DIR/sound
# Without what this machine starts for its users, such as a sound server.
export SYSTEMD_UNIT_PATH=$HOME/.config/systemd/user:/usr/lib/systemd/user
export PULSE_SOURCE=virt.monitor
wait_for() { for _ in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; }
show() { systemctl --user show snn-detect --property "$1"; }
events() { grep -q "\"$1\"" "$HOME/events.jsonl"; }
dbus-daemon --session "--address=$DBUS_SESSION_BUS_ADDRESS" --fork --nopidfile
pulseaudio -n --daemonize=no --system=false --exit-idle-time=-1 --use-pid-file=false \
  --load="module-null-sink sink_name=virt rate=48000" --load="module-native-protocol-unix socket=$XDG_RUNTIME_DIR/sound" 2>/dev/null &
wait_for pactl info
parec --device=virt.monitor --raw /dev/null &
/lib/systemd/systemd --user 2>/dev/null &
wait_for systemctl --user show-environment
systemctl --user import-environment PULSE_SERVER PULSE_SOURCE
systemctl --user start snn-detect
code=$?
echo "start=$code"
show ActiveState
show ExecMainStatus
systemd-analyze --user security --no-pager snn-detect.service | sed -n 's/.*exposure level.*: \([0-9.]*\).*/exposure=\1/p'
test "$code" = 0 || exit 0
wait_for events listening
paplay --device=virt "$HOME/sound.wav"
wait_for events onset
systemctl --user reload snn-detect
echo "reload=$?"
wait_for events reloaded
pid=$(systemctl --user show --value --property MainPID snn-detect)
sed -n 's/^\(NoNewPrivs\|Seccomp\):\t/\1=/p' "/proc/$pid/status"
test "$(readlink /proc/$pid/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" && echo mounts=shared || echo mounts=own
systemctl --user stop snn-detect
echo "stop=$?"
show Result
show NRestarts
for state in listening onset reloaded stopping; do events "$state" && echo "event=$state"; done
INNER
exec setpriv --reuid "$user" --regid "$user" --clear-groups bash /run/as_user.sh
