package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// control is the lab's own API, on a unix socket only root can reach: what an operator's hands do to a machine room.
type control struct {
	power    *Power
	machines *Machines
	hv       *hypervisor
	quit     chan<- bool // true: stop the machines too
}

func (c *control) serve(socket string) error {
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /machines", func(w http.ResponseWriter, _ *http.Request) { answer(w, c.machines.Status(), nil) })
	// A machine outside the inventory (the annex): started as described, or taken over when it runs.
	mux.HandleFunc("PUT /machines/{name}", func(w http.ResponseWriter, r *http.Request) {
		var s Spec
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			answer(w, nil, err)
			return
		}
		s.ID = r.PathValue("name")
		answer(w, nil, <-c.machines.Start(s))
	})
	mux.HandleFunc("POST /machines/{name}/{verb}", func(w http.ResponseWriter, r *http.Request) {
		result, err := c.act(r.PathValue("name"), r.PathValue("verb"), r)
		answer(w, result, err)
	})
	mux.HandleFunc("POST /clear", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, c.power.clear()) })
	mux.HandleFunc("DELETE /inventory/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, c.remove(r.PathValue("name")))
	})
	mux.HandleFunc("POST /quit", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, nil)
		c.quit <- r.URL.Query().Get("machines") == "stop"
	})
	go func() { _ = (&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}).Serve(listener) }()
	return nil
}

func (c *control) act(name, verb string, r *http.Request) (any, error) {
	var found *Status
	for _, s := range c.machines.Status() {
		if s.Name == name || s.ID == name {
			found = &s
		}
	}
	if found == nil {
		return nil, errors.New("no machine is called " + name + ": `lab status` lists them")
	}
	id := found.ID
	spec := c.machines.get(id).spec
	switch verb {
	case "start":
		return nil, c.start(id, spec)
	case "stop":
		return nil, c.setPower(id, types.VirtualMachinePowerStatePoweredOff, func() error { return <-c.machines.Stop(id, true) })
	case "kill":
		return nil, <-c.machines.Crash(id)
	case "freeze":
		return nil, <-c.machines.Freeze(id, true)
	case "thaw":
		return nil, <-c.machines.Freeze(id, false)
	case "cut":
		return nil, c.hv.cut(spec)
	case "heal":
		return nil, c.hv.heal(spec)
	case "slow":
		latency, err1 := strconv.ParseFloat(cmp.Or(r.URL.Query().Get("latency"), "0"), 64)
		loss, err2 := strconv.ParseFloat(cmp.Or(r.URL.Query().Get("loss"), "0"), 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return nil, c.hv.slow(spec, slowness{Latency: time.Duration(latency * float64(time.Millisecond)), Loss: loss})
	case "console":
		return c.hv.terminal(spec)
	}
	return nil, errors.New("no such verb: " + verb)
}

// start powers a machine on: a VM through the inventory, so that vCenter shows it, any other directly.
func (c *control) start(id string, spec Spec) error {
	return c.setPower(id, types.VirtualMachinePowerStatePoweredOn, func() error { return <-c.machines.Start(spec) })
}

func (c *control) setPower(id string, state types.VirtualMachinePowerState, otherwise func() error) error {
	inv := c.power.inv
	vm, ok := inv.registry().Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: id}).(*simulator.VirtualMachine)
	if !ok {
		return otherwise()
	}
	ctx := inv.context()
	inv.registry().WithLock(ctx, vm, func() {
		if vm.Runtime.PowerState != state {
			ctx.Update(vm, []types.PropertyChange{
				{Name: "runtime.powerState", Val: state},
				{Name: "summary.runtime.powerState", Val: state},
			})
		}
	})
	// The order was queued by the change; wait behind it.
	return <-c.machines.order(id, func(x *machine) error {
		if x.failure != "" {
			return errors.New(x.failure)
		}
		return nil
	})
}

// remove takes a VM out of the inventory, as an administrator would whose run was interrupted while it was cloned.
func (c *control) remove(name string) error {
	inv := c.power.inv
	for _, vm := range inv.vms() {
		if vm.Name != name {
			continue
		}
		off := types.VirtualMachinePowerStatePoweredOff
		if vm.Runtime.PowerState != off {
			if err := c.setPower(vm.Self.Value, off, func() error { return nil }); err != nil {
				return err
			}
		}
		vm.DestroyTask(inv.context(), &types.Destroy_Task{This: vm.Self})
		for end := time.Now().Add(10 * time.Second); inv.registry().Get(vm.Self) != nil; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				return errors.New(name + " could not be removed from the inventory")
			}
		}
	}
	return nil
}

func answer(w http.ResponseWriter, result any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		result = map[string]string{"error": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(result)
}
