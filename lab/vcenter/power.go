package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Power connects the inventory with the machines: it hears every change of an object, and reports back what guests do.
// The simulator calls it while it holds the object's lock, so here nothing waits: orders are only queued.
type Power struct {
	config   Config
	inv      *Inventory
	machines *Machines
	asked    sync.Map // ids of VMs whose guest was asked to shut down, so that it is given the time
}

// Method is called before every API call. The simulator has no guests, so what is asked of a guest is done here.
func (p *Power) Method(_ *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	switch m.Name {
	case "ShutdownGuest":
		p.asked.Store(m.This.Value, true)
	case "RebootGuest":
		if vm, ok := p.inv.registry().Get(m.This).(*simulator.VirtualMachine); ok && vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
			p.machines.Stop(m.This.Value, true)
			p.machines.Start(p.spec(&vm.VirtualMachine))
		}
	}
	return nil, nil
}

// Reference makes it a handler the registry can keep.
func (p *Power) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Lab", Value: "power"}
}

// PutObject is called for every new object.
func (p *Power) PutObject(_ *simulator.Context, o mo.Reference) {
	switch x := o.(type) {
	case *simulator.VirtualMachine:
		if x.Config != nil && x.Config.SwapPlacement == "" {
			x.Config.SwapPlacement = string(types.VirtualMachineConfigInfoSwapPlacementTypeInherit)
		}
		p.inv.touch()
	case *simulator.Folder:
		p.inv.touch()
	}
}

// RemoveObject is called before an object goes.
func (p *Power) RemoveObject(_ *simulator.Context, ref types.ManagedObjectReference) {
	if ref.Type == "VirtualMachine" {
		p.machines.Destroy(ref.Value)
	}
	if ref.Type == "VirtualMachine" || ref.Type == "Folder" {
		p.inv.touch()
	}
}

// UpdateObject is called after properties of an object have changed.
func (p *Power) UpdateObject(_ *simulator.Context, o mo.Reference, changes []types.PropertyChange) {
	vm, ok := o.(*mo.VirtualMachine)
	if !ok {
		switch x := o.(type) {
		case *mo.Task: // also what is changed without notice, such as a cluster's rules, is there when its task ends
			p.inv.heard(x, changes)
			p.inv.touch()
		case *mo.Folder:
			p.inv.touch()
		}
		return
	}
	p.inv.touch()
	for _, change := range changes {
		if change.Name != "runtime.powerState" {
			continue
		}
		switch change.Val {
		case types.VirtualMachinePowerStatePoweredOn:
			p.machines.Start(p.spec(vm))
		case types.VirtualMachinePowerStatePoweredOff:
			_, graceful := p.asked.LoadAndDelete(vm.Self.Value)
			p.machines.Stop(vm.Self.Value, graceful)
		case types.VirtualMachinePowerStateSuspended:
			p.machines.Freeze(vm.Self.Value, true)
		}
	}
}

// spec is what a VM's configuration means for its machine.
func (p *Power) spec(vm *mo.VirtualMachine) Spec {
	s := Spec{
		ID:        vm.Self.Value,
		Name:      vm.Name,
		UUID:      vm.Config.Uuid,
		MemoryMB:  vm.Config.Hardware.MemoryMB,
		Image:     p.config.imageOf(vm.Config.GuestId),
		Guestinfo: map[string]string{},
	}
	s.Native, _ = filepath.Match(p.config.Native, vm.Name)
	for _, option := range vm.Config.ExtraConfig {
		if o := option.GetOptionValue(); strings.HasPrefix(o.Key, "guestinfo.") {
			s.Guestinfo[o.Key] = fmt.Sprint(o.Value)
		}
	}
	s.Address = guestAddress(s.Guestinfo)
	for _, device := range vm.Config.Hardware.Device {
		switch d := device.(type) {
		case *types.VirtualDisk:
			backing, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			if ok && d.UnitNumber != nil && *d.UnitNumber != 0 {
				s.Disks = append(s.Disks, Disk{Unit: *d.UnitNumber, UUID: backing.Uuid, Bytes: d.CapacityInKB * 1024})
			}
		case types.BaseVirtualEthernetCard:
			if s.MAC == "" {
				s.MAC = d.GetVirtualEthernetCard().MacAddress
			}
		}
	}
	return s
}

// observed reports what a machine did by itself, in the way VMware's tools and vCenter would.
func (p *Power) observed(id string, event Event) {
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: id}
	vm, ok := p.inv.registry().Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return // the annex, or a VM deleted meanwhile
	}
	ctx := p.inv.context()
	p.inv.registry().WithLock(ctx, vm, func() {
		on := vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
		switch {
		case event == Booted && on:
			ctx.Update(vm, p.toolsRunning(p.spec(&vm.VirtualMachine)))
		case event == Ended && on:
			log.Printf("%s: reported as powered off", vm.Name)
			ctx.Update(vm, append(toolsStopped(),
				types.PropertyChange{Name: "runtime.powerState", Val: types.VirtualMachinePowerStatePoweredOff},
				types.PropertyChange{Name: "summary.runtime.powerState", Val: types.VirtualMachinePowerStatePoweredOff}))
		case event == Stopped:
			ctx.Update(vm, toolsStopped())
		}
	})
}

func (p *Power) toolsRunning(s Spec) []types.PropertyChange {
	running := string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	return []types.PropertyChange{
		{Name: "guest.guestState", Val: string(types.VirtualMachineGuestStateRunning)},
		{Name: "guest.toolsStatus", Val: types.VirtualMachineToolsStatusToolsOk},
		{Name: "guest.toolsRunningStatus", Val: running},
		{Name: "summary.guest.toolsRunningStatus", Val: running},
		{Name: "guest.hostName", Val: s.Name},
		{Name: "guest.ipAddress", Val: s.Address},
		{Name: "summary.guest.ipAddress", Val: s.Address},
		{Name: "guest.net", Val: []types.GuestNicInfo{{
			Network: "VM Network", MacAddress: s.MAC, IpAddress: []string{s.Address}, Connected: true, DeviceConfigId: 4000,
			IpConfig: &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{
				{IpAddress: s.Address, PrefixLength: p.config.Prefix, State: "preferred"}}},
		}}},
		{Name: "guest.ipStack", Val: []types.GuestStackInfo{{IpRouteConfig: &types.NetIpRouteConfigInfo{IpRoute: []types.NetIpRouteConfigInfoIpRoute{
			{Network: "0.0.0.0", PrefixLength: 0, Gateway: types.NetIpRouteConfigInfoGateway{IpAddress: p.config.Gateway, Device: "0"}}}}}}},
	}
}

func toolsStopped() []types.PropertyChange {
	stopped := string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
	return []types.PropertyChange{
		{Name: "guest.guestState", Val: string(types.VirtualMachineGuestStateNotRunning)},
		{Name: "guest.toolsStatus", Val: types.VirtualMachineToolsStatusToolsNotRunning},
		{Name: "guest.toolsRunningStatus", Val: stopped},
		{Name: "summary.guest.toolsRunningStatus", Val: stopped},
		// The address goes with the guest, so that whoever waits for one waits for the next boot's.
		{Name: "guest.ipAddress", Val: ""},
		{Name: "summary.guest.ipAddress", Val: ""},
		{Name: "guest.net", Val: []types.GuestNicInfo{}},
		{Name: "guest.ipStack", Val: []types.GuestStackInfo{}},
	}
}

// resume brings the machines of a restored inventory to the state their VMs say: those that survived are taken over,
// those that did not are booted from their disks.
func (p *Power) resume() {
	for _, vm := range p.inv.vms() {
		if vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
			p.machines.Start(p.spec(&vm.VirtualMachine))
		}
	}
}

// clear removes the machines of VMs that the inventory does not have, because this program was killed or a machine
// would not end: one of them may still run at an address that another one is given. An inventory that was never
// written says nothing about whose disks may go.
func (p *Power) clear() error {
	if _, err := os.Stat(p.inv.file); err != nil {
		return nil
	}
	return p.machines.Clear(func(id string) bool {
		return !strings.HasPrefix(id, "vm-") || p.inv.registry().Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: id}) != nil
	})
}
