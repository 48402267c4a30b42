package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Slowness of a machine's network. Not every kernel has netem, so the lab carries the packets itself: the machine's
// link is taken off the bridge, a second tap is put on, and frames go between the two later, or not at all.
type slowness struct {
	Latency time.Duration `json:"latency"` // each way
	Loss    float64       `json:"loss"`    // percent, each way
}

// relays are the carriers at work, by machine id.
type relays struct {
	mu   sync.Mutex
	byID map[string]*relay
}

type relay struct {
	machine int      // packet socket on the machine's link
	bridge  *os.File // tap on the bridge
	stop    chan struct{}
	work    sync.WaitGroup // whoever uses machine: the number must not be closed, and given out anew, under its user
}

// frames carry the 10 bytes of a virtio header (offloaded checksums and segments) on both sides.
const maxFrame = 10 + 65536 + 64

func (h *hypervisor) slowFile(s Spec) string { return filepath.Join(h.runDir(s), "slow") }

// slow makes a machine's network slow; zero slowness ends it.
func (h *hypervisor) slow(s Spec, how slowness) error {
	h.relays.mu.Lock()
	defer h.relays.mu.Unlock()
	h.endRelay(s.ID)
	_ = os.Remove(h.slowFile(s))
	if how == (slowness{}) {
		return h.ip("link", "set", link(s), "master", h.Bridge)
	}
	if err := h.ip("link", "set", link(s), "nomaster"); err != nil {
		return err
	}
	r, err := h.startRelay(s, how)
	if err != nil {
		_ = h.ip("link", "set", link(s), "master", h.Bridge)
		return err
	}
	h.relays.byID[s.ID] = r
	text, _ := json.Marshal(how)
	return os.WriteFile(h.slowFile(s), text, 0o600)
}

// Adopt takes over what this program did for a machine in an earlier life: carrying its packets slowly.
func (h *hypervisor) Adopt(s Spec) {
	var how slowness
	if text, err := os.ReadFile(h.slowFile(s)); err == nil && json.Unmarshal(text, &how) == nil {
		_ = h.slow(s, how)
	}
}

func (h *hypervisor) endRelay(id string) {
	if r, ok := h.relays.byID[id]; ok {
		close(r.stop)
		_ = r.bridge.Close()
		r.work.Wait()
		_ = syscall.Close(r.machine)
		delete(h.relays.byID, id)
	}
}

func (h *hypervisor) startRelay(s Spec, how slowness) (*relay, error) {
	r := &relay{stop: make(chan struct{})}
	other := clip("s-" + s.ID)
	err := inNamespace(h.Namespace, func() (err error) {
		if r.bridge, err = openTap(other); err != nil {
			return err
		}
		r.machine, err = openLink(link(s))
		return err
	})
	if err == nil {
		err = h.ip("link", "set", other, "master", h.Bridge, "up")
	}
	if err != nil {
		if r.bridge != nil {
			_ = r.bridge.Close()
		}
		return nil, err
	}
	toBridge := r.carry(how, func(frame []byte) { _, _ = r.bridge.Write(frame) })
	toMachine := r.carry(how, func(frame []byte) { _, _ = syscall.Write(r.machine, frame) })
	r.work.Go(func() {
		buffer := make([]byte, maxFrame)
		for !r.ended() {
			n, from, err := syscall.Recvfrom(r.machine, buffer, 0)
			if err == syscall.EINTR || err == syscall.EAGAIN {
				continue // nothing for a while
			}
			if err != nil {
				return
			}
			// Frames this program sends to the machine are seen here too.
			if ll, ok := from.(*syscall.SockaddrLinklayer); ok && ll.Pkttype != syscall.PACKET_OUTGOING {
				toBridge(buffer[:n])
			}
		}
	})
	r.work.Go(func() {
		buffer := make([]byte, maxFrame)
		for {
			n, err := r.bridge.Read(buffer)
			if err != nil {
				return
			}
			toMachine(buffer[:n])
		}
	})
	return r, nil
}

func (r *relay) ended() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// carry returns a function that takes frames, and delivers them later and in order, or loses them.
func (r *relay) carry(how slowness, deliver func([]byte)) func([]byte) {
	type late struct {
		due   time.Time
		frame []byte
	}
	queue := make(chan late, 8192)
	r.work.Go(func() {
		for {
			select {
			case <-r.stop:
				return
			case x := <-queue:
				time.Sleep(time.Until(x.due))
				deliver(x.frame)
			}
		}
	})
	return func(frame []byte) {
		if rand.Float64()*100 < how.Loss {
			return
		}
		select {
		case queue <- late{time.Now().Add(how.Latency), append([]byte(nil), frame...)}:
		default: // a full queue loses frames, as a router's does
		}
	}
}

// inNamespace does work in a network namespace; what is opened there stays there.
func inNamespace(name string, work func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread has changed and must end with this goroutine
		f, err := os.Open("/run/netns/" + name)
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		const setns = 308 // amd64
		if _, _, errno := syscall.RawSyscall(setns, f.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			done <- fmt.Errorf("network namespace %s: %w", name, errno)
			return
		}
		done <- work()
	}()
	return <-done
}

func openTap(name string) (*os.File, error) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var request struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:15], name)
	request.flags = syscall.IFF_TAP | syscall.IFF_NO_PI | syscall.IFF_VNET_HDR
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("tap %s: %w", name, errno)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openLink(name string) (int, error) {
	const everyProtocol = 0x0300 // ETH_P_ALL in network byte order
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, everyProtocol)
	if err != nil {
		return 0, err
	}
	fail := func(err error) (int, error) {
		_ = syscall.Close(fd)
		return 0, fmt.Errorf("packets of %s: %w", name, err)
	}
	const vnetHeader = 15 // PACKET_VNET_HDR
	if err := syscall.SetsockoptInt(fd, syscall.SOL_PACKET, vnetHeader, 1); err != nil {
		return fail(err)
	}
	// A read returns now and then, so that it sees when it should end.
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Usec: 200_000}); err != nil {
		return fail(err)
	}
	card, err := net.InterfaceByName(name)
	if err != nil {
		return fail(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: everyProtocol, Ifindex: card.Index}); err != nil {
		return fail(err)
	}
	promiscuous := struct {
		index   int32
		kind    uint16
		length  uint16
		address [8]byte
	}{index: int32(card.Index), kind: syscall.PACKET_MR_PROMISC}
	if _, _, errno := syscall.Syscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), syscall.SOL_PACKET, syscall.PACKET_ADD_MEMBERSHIP,
		uintptr(unsafe.Pointer(&promiscuous)), unsafe.Sizeof(promiscuous), 0); errno != 0 {
		return fail(errno)
	}
	return fd, nil
}
