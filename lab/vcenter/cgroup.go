package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A cgroup holds every process of one machine: to stop it by process id, to pause it, and to account for it.
type cgroup struct {
	// dirs maps a controller's name to the machine's directory; with cgroup v2 all names map to one.
	dirs map[string]string
	v2   bool
}

// cgroupParent holds the machines' cgroups; it is named as the lab's network namespace.
var cgroupParent = "fleet-lab"

// cgroupRoot is a variable so that tests can point it at an ordinary directory.
var cgroupRoot = "/sys/fs/cgroup"

func machineCgroup(id string) cgroup {
	c := cgroup{dirs: map[string]string{}}
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		c.v2 = true
		c.dirs["memory"] = filepath.Join(cgroupRoot, cgroupParent, id)
		c.dirs["cpuacct"], c.dirs["freezer"] = c.dirs["memory"], c.dirs["memory"]
		return c
	}
	for _, controller := range []string{"memory", "cpuacct", "freezer"} {
		if _, err := os.Stat(filepath.Join(cgroupRoot, controller)); err == nil {
			c.dirs[controller] = filepath.Join(cgroupRoot, controller, cgroupParent, id)
		}
	}
	return c
}

func (c cgroup) create() error {
	for _, dir := range c.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cgroup %s: %w (the lab needs writable cgroups: run it as root on the machine itself)", dir, err)
		}
	}
	if c.v2 {
		// Accounting is a convenience: where a controller cannot be passed down, status shows nothing for it.
		for _, parent := range []string{cgroupRoot, filepath.Join(cgroupRoot, cgroupParent)} {
			for _, controller := range []string{"+memory", "+cpu"} {
				_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(controller), 0)
			}
		}
	}
	return nil
}

// procFiles are the files a process writes its id into to join the cgroup.
func (c cgroup) procFiles() []string {
	seen := map[string]bool{}
	var files []string
	for _, dir := range c.dirs {
		if !seen[dir] {
			seen[dir] = true
			files = append(files, filepath.Join(dir, "cgroup.procs"))
		}
	}
	return files
}

func (c cgroup) pids() []int {
	seen := map[int]bool{}
	var pids []int
	for _, dir := range c.dirs {
		_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return nil
			}
			text, _ := os.ReadFile(path)
			for _, word := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(word); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

// freeze stops (or lets go on) every process of the machine where it stands.
func (c cgroup) freeze(on bool) error {
	dir, ok := c.dirs["freezer"]
	if !ok {
		return fmt.Errorf("this computer has no freezer cgroup: freeze and thaw are not possible here")
	}
	if c.v2 {
		return os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(map[bool]string{true: "1", false: "0"}[on]), 0)
	}
	return os.WriteFile(filepath.Join(dir, "freezer.state"), []byte(map[bool]string{true: "FROZEN", false: "THAWED"}[on]), 0)
}

func (c cgroup) frozen() bool {
	dir := c.dirs["freezer"]
	if c.v2 {
		text, _ := os.ReadFile(filepath.Join(dir, "cgroup.freeze"))
		return strings.TrimSpace(string(text)) == "1"
	}
	text, _ := os.ReadFile(filepath.Join(dir, "freezer.state"))
	return strings.HasPrefix(string(text), "FR")
}

// kill ends every process of the machine, by id, and waits until they are gone.
func (c cgroup) kill() error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		pids := c.pids()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = c.freeze(false) // a frozen process dies only when it runs again
		if time.Now().After(end) {
			return fmt.Errorf("processes %v do not die: look at them with ps, then run the verb again", pids)
		}
	}
}

func (c cgroup) remove() {
	for _, dir := range c.dirs {
		var all []string
		_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for i := len(all) - 1; i >= 0; i-- {
			_ = os.Remove(all[i])
		}
	}
}

// memory is what the machine's processes and its guest memory (a file in shared memory) occupy, in bytes; 0 when not
// accounted. Disk contents in the page cache are not counted: they are given back when something else needs the room.
func (c cgroup) memory() int64 {
	text, err := os.ReadFile(filepath.Join(c.dirs["memory"], "memory.stat"))
	if err != nil {
		return 0
	}
	var sum int64
	for _, line := range strings.Split(string(text), "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "rss", "anon", "shmem": // v1 says rss, v2 says anon
			n, _ := strconv.ParseInt(value, 10, 64)
			sum += n
		}
	}
	return sum
}

// cpuSeconds is the processor time the machine has used since it was started.
func (c cgroup) cpuSeconds() float64 {
	if c.v2 {
		text, _ := os.ReadFile(filepath.Join(c.dirs["memory"], "cpu.stat"))
		for _, line := range strings.Split(string(text), "\n") {
			if usec, ok := strings.CutPrefix(line, "usage_usec "); ok {
				n, _ := strconv.ParseInt(usec, 10, 64)
				return float64(n) / 1e6
			}
		}
		return 0
	}
	return float64(readNumber(filepath.Join(c.dirs["cpuacct"], "cpuacct.usage"))) / 1e9
}

func readNumber(file string) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}
