package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"
)

// Spec is everything a machine is started from. It lies beside the machine's disks.
type Spec struct {
	ID        string            `json:"id"` // the managed object id of its VM, or a name of the lab's own
	Name      string            `json:"name"`
	UUID      string            `json:"uuid"`
	MemoryMB  int32             `json:"memoryMb"`
	MAC       string            `json:"mac"`
	Image     string            `json:"image"` // directory; fixed when the machine is first started
	Native    bool              `json:"native"`
	Disks     []Disk            `json:"disks"`
	Guestinfo map[string]string `json:"guestinfo"`
	// Address is where the guest is expected to answer, "" when nobody can tell.
	Address string `json:"address"`
	// Share is a directory of this computer the guest may mount as hostfs, "" for none.
	Share string `json:"share,omitempty"`
}

// Disk is a data disk; unit 0 is the root disk and is not among them.
type Disk struct {
	Unit  int32  `json:"unit"`
	UUID  string `json:"uuid"`
	Bytes int64  `json:"bytes"`
}

// Hypervisor runs machines. The real one starts processes; tests have one that only notes what was asked.
type Hypervisor interface {
	// Start returns when the machine's process exists.
	Start(Spec) error
	// Running tells whether the machine's process is there, whoever started it.
	Running(Spec) bool
	// Stop returns when every process of the machine is gone. Graceful asks the guest first.
	Stop(spec Spec, graceful bool) error
	Freeze(spec Spec, on bool) error
	// Adopt is called for a machine that already runs.
	Adopt(Spec)
	// Answers tells whether the guest has booted: its SSH port answers.
	Answers(Spec) bool
	// Forget removes what a stopped machine leaves outside its directory.
	Forget(Spec)
}

// Event is what the manager reports about a machine it was not asked to change.
type Event int

const (
	// Booted: the guest answers at its address.
	Booted Event = iota
	// Ended: the machine's process is gone without being told to.
	Ended
	// Stopped: the machine's process is gone because it was told to.
	Stopped
)

// Machines owns the machines' processes. Every machine has one worker, so orders to one machine are carried out one
// after the other while those to different machines run side by side.
type Machines struct {
	dir     string // one directory a machine
	hv      Hypervisor
	observe func(id string, event Event)
	every   time.Duration // how often a running machine is looked at

	mu   sync.Mutex
	byID map[string]*machine
}

type machine struct {
	spec   Spec
	orders chan func()

	mu      sync.Mutex
	state   string // off, starting, booting, on, frozen
	since   time.Time
	booted  time.Duration // from start to its first answer
	failure string
	life    int // counts starts, so that a watcher of an earlier life ends
}

func newMachines(dir string, hv Hypervisor, observe func(string, Event)) *Machines {
	return &Machines{dir: dir, hv: hv, observe: observe, every: 300 * time.Millisecond, byID: map[string]*machine{}}
}

// machineDir is where a machine's specification and disks are.
func (m *Machines) machineDir(id string) string { return filepath.Join(m.dir, id) }

// bootFile remembers how long the machine took to boot, for the status after this program was restarted.
func (m *Machines) bootFile(id string) string { return filepath.Join(m.machineDir(id), "boot-time") }

// specFile is there as long as the machine is.
func (m *Machines) specFile(id string) string { return filepath.Join(m.machineDir(id), "machine.json") }

func (m *Machines) get(id string) *machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.getLocked(id)
}

func (m *Machines) getLocked(id string) *machine {
	x, ok := m.byID[id]
	if !ok {
		x = &machine{orders: make(chan func(), 64), state: "off"}
		x.spec.ID = id
		if text, err := os.ReadFile(m.specFile(id)); err == nil {
			_ = json.Unmarshal(text, &x.spec)
		}
		if text, err := os.ReadFile(m.bootFile(id)); err == nil {
			x.booted, _ = time.ParseDuration(string(text))
		}
		m.byID[id] = x
		go func() {
			for order := range x.orders {
				order()
			}
		}()
	}
	return x
}

// order queues work for one machine; the returned channel delivers its end.
func (m *Machines) order(id string, work func(*machine) error) <-chan error {
	x := m.get(id)
	done := make(chan error, 1)
	x.orders <- func() {
		err := work(x)
		if err != nil {
			log.Printf("%s: %v", x.label(), err)
		}
		x.mu.Lock()
		x.failure = ""
		if err != nil {
			x.failure = err.Error()
		}
		x.mu.Unlock()
		done <- err
	}
	return done
}

// Start starts a machine, or takes over one that already runs.
func (m *Machines) Start(spec Spec) <-chan error {
	return m.order(spec.ID, func(x *machine) error {
		if x.spec.Image != "" {
			spec.Image = x.spec.Image // its root disk is a layer over this very image
		}
		text, err := json.MarshalIndent(spec, "", "  ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(m.machineDir(spec.ID), 0o700); err != nil {
			return err
		}
		if err := writeFile(m.specFile(spec.ID), text, 0o600); err != nil {
			return err
		}
		x.mu.Lock()
		x.spec = spec
		x.mu.Unlock()
		fresh := !m.hv.Running(spec)
		if !fresh {
			m.hv.Adopt(spec)
			_ = m.hv.Freeze(spec, false) // a machine powered on goes on, also one that was suspended
		} else {
			x.set("starting")
			if err := m.hv.Start(spec); err != nil {
				x.set("off")
				m.observe(spec.ID, Ended)
				return err
			}
			log.Printf("%s: started", x.label())
		}
		x.set("booting")
		m.watch(x, fresh)
		return nil
	})
}

// watch reports the machine's first answer and its end. Only a fresh start is measured.
func (m *Machines) watch(x *machine, fresh bool) {
	x.mu.Lock()
	x.life++
	life, spec, begin := x.life, x.spec, time.Now()
	x.mu.Unlock()
	current := func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.life == life
	}
	go func() {
		for answered := false; ; time.Sleep(m.every) {
			if !current() {
				return
			}
			if !m.hv.Running(spec) {
				if !current() {
					return
				}
				x.set("off")
				log.Printf("%s: ended by itself", x.label())
				m.hv.Forget(spec)
				m.observe(spec.ID, Ended)
				return
			}
			if !answered && m.hv.Answers(spec) && current() {
				answered = true
				x.mu.Lock()
				x.state, x.since = "on", time.Now()
				if fresh {
					x.booted = time.Since(begin)
					_ = os.WriteFile(m.bootFile(spec.ID), []byte(x.booted.String()), 0o600)
				}
				x.mu.Unlock()
				log.Printf("%s: answers at %s after %.1f s", x.label(), spec.Address, time.Since(begin).Seconds())
				m.observe(spec.ID, Booted)
			}
		}
	}()
}

// Stop ends a machine and keeps its disks.
func (m *Machines) Stop(id string, graceful bool) <-chan error {
	return m.order(id, func(x *machine) error {
		x.mu.Lock()
		x.life++ // its end is no surprise
		x.mu.Unlock()
		err := m.hv.Stop(x.spec, graceful)
		m.hv.Forget(x.spec)
		x.set("off")
		m.observe(id, Stopped)
		return err
	})
}

// Freeze suspends a machine where it stands, or lets it go on.
func (m *Machines) Freeze(id string, on bool) <-chan error {
	return m.order(id, func(x *machine) error {
		if !m.hv.Running(x.spec) {
			return fmt.Errorf("%s is off: start it first", x.label())
		}
		if err := m.hv.Freeze(x.spec, on); err != nil {
			return err
		}
		if on {
			x.set("frozen")
		} else {
			x.set("booting")
			m.watch(x, false)
		}
		return nil
	})
}

// Crash ends a machine's processes as a failing host would; the watcher finds it gone.
func (m *Machines) Crash(id string) <-chan error {
	return m.order(id, func(x *machine) error {
		if !m.hv.Running(x.spec) {
			return fmt.Errorf("%s is off already", x.label())
		}
		return m.hv.Stop(x.spec, false)
	})
}

// Destroy ends a machine and removes its disks.
func (m *Machines) Destroy(id string) <-chan error {
	return m.order(id, func(x *machine) error {
		x.mu.Lock()
		x.life++
		x.mu.Unlock()
		err := m.hv.Stop(x.spec, false)
		m.hv.Forget(x.spec)
		x.set("off")
		if err != nil {
			return err
		}
		// Both under one lock: a list made between the two would take the machine in again from its file.
		m.mu.Lock()
		_ = os.Remove(m.specFile(id))
		delete(m.byID, id)
		m.mu.Unlock()
		return os.RemoveAll(m.machineDir(id))
	})
}

// Clear removes machines that are not to be kept, and says which of them it could not.
func (m *Machines) Clear(keep func(id string) bool) error {
	waits := map[string]<-chan error{}
	for _, id := range m.directories() {
		if !keep(id) {
			log.Printf("%s: removed, it is not in the inventory", m.get(id).label())
			waits[id] = m.Destroy(id)
		}
	}
	var failed []error
	for id, wait := range waits {
		if err := <-wait; err != nil {
			failed = append(failed, fmt.Errorf("%s, which is not in the inventory, cannot be removed: %w", id, err))
		}
	}
	return errors.Join(failed...)
}

// directories are the ids of all machines that have left anything.
func (m *Machines) directories() []string {
	entries, _ := os.ReadDir(m.dir)
	var ids []string
	for _, entry := range entries {
		ids = append(ids, entry.Name())
	}
	return ids
}

// StopAll ends every machine, all at once, and waits.
func (m *Machines) StopAll(graceful bool) error {
	var waits []<-chan error
	for _, status := range m.Status() {
		waits = append(waits, m.Stop(status.ID, graceful))
	}
	var first error
	for _, wait := range waits {
		if err := <-wait; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Status is one machine as `lab status` shows it.
type Status struct {
	ID, Name, UUID, Address, State, Failure string
	Native                                  bool
	MemoryMB                                int32
	Boot                                    float64 // seconds from start to first answer
	Up                                      float64 // seconds since the state changed
	MemoryBytes                             int64   // what the machine costs this computer now
	CPUSeconds                              float64
}

// Status lists all machines known, by name.
func (m *Machines) Status() []Status {
	m.mu.Lock()
	for _, id := range m.directories() {
		if _, err := os.Stat(m.specFile(id)); err == nil {
			m.getLocked(id)
		}
	}
	all := make([]*machine, 0, len(m.byID))
	for _, x := range m.byID {
		all = append(all, x)
	}
	m.mu.Unlock()
	var list []Status
	for _, x := range all {
		x.mu.Lock()
		c := machineCgroup(x.spec.ID)
		s := Status{ID: x.spec.ID, Name: x.spec.Name, UUID: x.spec.UUID, Address: x.spec.Address, State: x.state, Failure: x.failure, Native: x.spec.Native,
			MemoryMB: x.spec.MemoryMB, Boot: x.booted.Seconds(), Up: time.Since(x.since).Seconds(), MemoryBytes: c.memory(), CPUSeconds: c.cpuSeconds()}
		if s.Name == "" {
			s.Name = s.ID
		}
		x.mu.Unlock()
		list = append(list, s)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

func (x *machine) set(state string) {
	x.mu.Lock()
	x.state, x.since = state, time.Now()
	x.mu.Unlock()
}

func (x *machine) label() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.spec.Name == "" || x.spec.Name == x.spec.ID {
		return x.spec.ID
	}
	return x.spec.Name + " (" + x.spec.ID + ")"
}
