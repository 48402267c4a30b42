package main

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A native machine is the same Debian on this computer's own kernel: a tree of files in namespaces, with systemd as
// its first process. It is for work a User-Mode guest is too slow for, and has every processor of the computer.

//go:embed native.sh
var nativeInit string

func (h *hypervisor) startNative(s Spec) error {
	if len(s.Disks) > 0 {
		return errors.New("a natively booted machine cannot have data disks: rename the VM so that it is not native, or leave the disks out")
	}
	upper := filepath.Join(h.dir(s), "upper")
	if err := os.MkdirAll(filepath.Join(upper, "var/lib"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(upper, "var/lib/guestinfo.env"), guestinfoEnvironment(s.Guestinfo), 0o600); err != nil {
		return err
	}
	script := filepath.Join(h.runDir(s), "init.sh")
	if err := os.WriteFile(script, []byte(nativeInit), 0o700); err != nil {
		return err
	}
	// spawn finds the machine by this file and by its marker among the arguments, as with the other kind.
	record := `echo $$ >"$1"; shift; exec "$@"`
	args := []string{"/bin/sh", "-c", record, "sh", h.pidFile(s),
		"unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child",
		"/bin/sh", script, filepath.Join(s.Image, "tree"), h.dir(s), cgroupParent + "/" + s.ID, "umid=" + s.ID}
	if err := h.spawn(s, args, []string{"PATH=" + os.Getenv("PATH")}); err != nil {
		return err
	}
	if err := h.plugNative(s); err != nil {
		_ = machineCgroup(s.ID).kill()
		return err
	}
	return nil
}

// plugNative makes a pair of linked interfaces: one on the bridge, one as the machine's card. The machine waits for it.
func (h *hypervisor) plugNative(s Spec) error {
	peer := clip("p-" + s.ID)
	if err := h.ip("link", "add", link(s), "type", "veth", "peer", "name", peer, "address", s.MAC); err != nil {
		return err
	}
	if err := h.ip("link", "set", link(s), "master", h.Bridge, "up"); err != nil {
		return err
	}
	// The main process may still be on its way into its network namespace.
	for begin := time.Now(); sameNamespace(h.pid(s)); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			return fmt.Errorf("%s got no network namespace: is unshare of util-linux installed?", s.Name)
		}
	}
	return h.ip("link", "set", peer, "netns", strconv.Itoa(h.pid(s)), "name", "vec0")
}

func sameNamespace(pid int) bool {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	mine, _ := os.Readlink("/proc/self/ns/net")
	return err != nil || theirs == mine
}

// guestinfoEnvironment is the form in which cloud-init takes guestinfo from its environment.
func guestinfoEnvironment(values map[string]string) []byte {
	var out strings.Builder
	out.WriteString("VMX_GUESTINFO=1\n")
	for _, key := range slices.Sorted(maps.Keys(values)) {
		name := "VMX_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		fmt.Fprintf(&out, "%s=%q\n", name, values[key])
	}
	return []byte(out.String())
}

// askNativeToStop sends systemd the signal that means "power off" to it.
func (h *hypervisor) askNativeToStop(s Spec) error {
	const powerOff = syscall.Signal(34 + 4) // SIGRTMIN+4 as glibc counts
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", h.pid(s), h.pid(s)))
	if err != nil {
		return err
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return errors.New("the machine's first process is not there")
	}
	return syscall.Kill(child, powerOff)
}

// forgetNative removes the cgroups systemd made, where the computer shows the v2 tree beside the v1 ones.
func (h *hypervisor) forgetNative(s Spec) {
	if unified := filepath.Join(cgroupRoot, "unified", cgroupParent, s.ID); s.Native {
		_ = exec.Command("find", unified, "-depth", "-type", "d", "-delete").Run()
	}
}
