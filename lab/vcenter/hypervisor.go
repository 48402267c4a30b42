package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hypervisor starts machines as processes of this computer: User-Mode Linux guests, and native ones.
// Processes are in sessions of their own and survive this program; a later one finds them by their pid files.
type hypervisor struct {
	Config
	relays relays
}

func newHypervisor(c Config) *hypervisor {
	return &hypervisor{Config: c, relays: relays{byID: map[string]*relay{}}}
}

// patience is how long a guest may take to shut down when it is asked to.
const patience = 25 * time.Second

func (h *hypervisor) dir(s Spec) string     { return filepath.Join(h.State, "machines", s.ID) }
func (h *hypervisor) runDir(s Spec) string  { return filepath.Join(h.State, "run", "guests", s.ID) }
func (h *hypervisor) pidFile(s Spec) string { return filepath.Join(h.runDir(s), "pid") }
func (h *hypervisor) console(s Spec) string {
	return filepath.Join(h.State, "logs", "console-"+s.Name+".log")
}

// link is the machine's network interface on this computer's side; names have at most 15 characters.
func link(s Spec) string { return clip("t-" + s.ID) }

func clip(name string) string { return name[:min(len(name), 15)] }

func (h *hypervisor) Running(s Spec) bool {
	pid := h.pid(s)
	if pid == 0 {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(line, []byte(marker(s)))
}

// marker is in the command line of the machine's main process and in no other's.
func marker(s Spec) string { return "umid=" + s.ID + "\x00" }

func (h *hypervisor) pid(s Spec) int {
	text, err := os.ReadFile(h.pidFile(s))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

func (h *hypervisor) Start(s Spec) error {
	// What an earlier life of the machine may have left.
	if err := machineCgroup(s.ID).kill(); err != nil {
		return err
	}
	h.Forget(s)
	for _, dir := range []string{h.dir(s), h.runDir(s), filepath.Dir(h.console(s))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := machineCgroup(s.ID).create(); err != nil {
		return err
	}
	if err := h.makeDisks(s); err != nil {
		return err
	}
	if s.Native {
		return h.startNative(s)
	}
	return h.startGuest(s)
}

// makeDisks brings data disks to their size. They are sparse; growing keeps what is in them.
func (h *hypervisor) makeDisks(s Spec) error {
	for _, d := range s.Disks {
		f, err := os.OpenFile(h.disk(s, d), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil && info.Size() < d.Bytes {
			err = f.Truncate(d.Bytes)
		}
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(h.dir(s), "guestinfo.tar"), guestinfoArchive(s.UUID, s.Guestinfo), 0o600)
}

func (h *hypervisor) disk(s Spec, d Disk) string {
	return filepath.Join(h.dir(s), "disk-"+d.UUID+".img")
}

// startGuest boots a User-Mode Linux guest.
func (h *hypervisor) startGuest(s Spec) error {
	if err := h.plug(s); err != nil {
		return err
	}
	args := []string{
		"ip", "netns", "exec", h.Namespace, h.Kernel,
		"umid=" + s.ID, "uml_dir=" + filepath.Dir(h.runDir(s)),
		"seccomp=on", fmt.Sprintf("mem=%dM", s.MemoryMB),
		"root=/dev/ubda", "rw", "ubda=" + filepath.Join(h.dir(s), "root.cow") + "," + filepath.Join(s.Image, "root.img"),
		// Unit 7 of a SCSI bus is the controller itself, so no disk of the VM's own is ever there.
		"ubdhr=" + filepath.Join(h.dir(s), "guestinfo.tar"),
		fmt.Sprintf("vec0:transport=tap,ifname=%s,depth=128,gro=1,mac=%s", link(s), s.MAC),
		"con=null", "con0=null,fd:1", "con1=pts", "quiet", "selinux=0", "random.trust_cpu=on",
		// The root of what hostfs can see of this computer: the machine's share, or nothing.
		"hostfs=" + cmp.Or(s.Share, "/var/empty"),
	}
	for _, d := range s.Disks {
		args = append(args, fmt.Sprintf("ubd%c=%s", 'a'+d.Unit, h.disk(s, d)))
	}
	return h.spawn(s, args, []string{"TMPDIR=/dev/shm", "PATH=" + os.Getenv("PATH")})
}

// spawn starts the machine's main process in its cgroup and in a session of its own.
func (h *hypervisor) spawn(s Spec, args, env []string) error {
	console, err := os.OpenFile(h.console(s), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer console.Close()
	fmt.Fprintf(console, "\n--- %s started at %s\n", s.Name, time.Now().Format(time.RFC3339))
	const join = `n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1" || exit 1; shift; n=$((n - 1)); done; exec "$@"`
	files := machineCgroup(s.ID).procFiles()
	all := append([]string{"-c", join, "sh", strconv.Itoa(len(files))}, files...)
	command := exec.Command("/bin/sh", append(all, args...)...)
	command.Env, command.Stdout, command.Stderr = env, console, console
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for begin := time.Now(); time.Since(begin) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
		if h.Running(s) {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the machine ended at once (%v): %s", err, tail(h.console(s), 400))
		default:
		}
	}
	return fmt.Errorf("the machine has not begun to run within 20 s: see %s", h.console(s))
}

// plug makes the machine's network card and connects it to the bridge.
func (h *hypervisor) plug(s Spec) error {
	if err := h.ip("tuntap", "add", "dev", link(s), "mode", "tap"); err != nil {
		return err
	}
	return h.ip("link", "set", link(s), "master", h.Bridge, "up")
}

// ip runs one ip(8) command in the lab's network namespace.
func (h *hypervisor) ip(args ...string) error {
	all := append([]string{"-n", h.Namespace}, args...)
	if out, err := exec.Command("ip", all...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %s", strings.Join(all, " "), strings.TrimSpace(string(out)))
	}
	return nil
}

func (h *hypervisor) Stop(s Spec, graceful bool) error {
	group := machineCgroup(s.ID)
	if graceful && h.Running(s) && !group.frozen() {
		if err := h.askToStop(s); err == nil {
			for end := time.Now().Add(patience); h.Running(s) && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			}
		}
	}
	return group.kill()
}

func (h *hypervisor) askToStop(s Spec) error {
	if s.Native {
		return h.askNativeToStop(s)
	}
	_, err := mconsole(filepath.Join(h.runDir(s), "mconsole"), "cad")
	return err
}

func (h *hypervisor) Forget(s Spec) {
	h.relays.mu.Lock()
	h.endRelay(s.ID)
	h.relays.mu.Unlock()
	_ = h.ip("link", "del", link(s))
	h.forgetNative(s)
	_ = os.RemoveAll(h.runDir(s))
	machineCgroup(s.ID).remove()
}

func (h *hypervisor) Freeze(s Spec, on bool) error { return machineCgroup(s.ID).freeze(on) }

func (h *hypervisor) Answers(s Spec) bool {
	if s.Address == "" {
		return false
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort(s.Address, "22"), 500*time.Millisecond)
	if err != nil {
		return false
	}
	defer c.Close()
	// A port can be open before the server behind it works; SSH speaks first.
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	hello := make([]byte, 4)
	n, _ := c.Read(hello)
	return strings.HasPrefix(string(hello[:n]), "SSH")
}

// cut unplugs the machine from the bridge, silently: no carrier loss is seen inside.
func (h *hypervisor) cut(s Spec) error {
	if err := h.slow(s, slowness{}); err != nil {
		return err
	}
	return h.ip("link", "set", link(s), "nomaster")
}

// heal plugs it in again, at full speed.
func (h *hypervisor) heal(s Spec) error { return h.slow(s, slowness{}) }

// terminal is the pseudo terminal behind the guest's own console.
func (h *hypervisor) terminal(s Spec) (string, error) {
	if s.Native {
		return "", errors.New("a natively booted machine has no console of its own: use ssh")
	}
	text, err := mconsole(filepath.Join(h.runDir(s), "mconsole"), "config con1")
	if err != nil {
		return "", err
	}
	_, device, found := strings.Cut(strings.TrimRight(text, "\x00\n"), ":")
	if !found {
		return "", fmt.Errorf("the guest has not opened its console yet (%q): try again in a second", text)
	}
	return device, nil
}

func tail(file string, bytes int64) string {
	text, _ := os.ReadFile(file)
	return strings.TrimSpace(string(text[max(0, int64(len(text))-bytes):]))
}
