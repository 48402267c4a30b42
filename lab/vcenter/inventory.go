package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Inventory is the simulated vCenter's contents. A base that is the same in every lab (datacenter, cluster, hosts,
// datastore, network, templates) is made at every start; what users make on top of it is written to a file on every
// change and put back, object by object and under the same ids, at the next start.
type Inventory struct {
	model *simulator.Model
	file  string
	base  map[types.ManagedObjectReference]bool
	tags  tagStore

	dirty   atomic.Bool
	changed chan struct{}
	saving  sync.Mutex // held by who writes the file
	closed  bool       // nothing is written any more

	// A VM is written once it is whole: while it is created or cloned, the simulator changes it under other locks.
	making sync.Mutex
	clones int                                   // clone tasks at work
	made   []types.ManagedObjectReference        // created during those; a clone's own creation is among them
	whole  map[types.ManagedObjectReference]bool // may be written
}

// heard is told of every change of a task.
func (inv *Inventory) heard(task *mo.Task, changes []types.PropertyChange) {
	isClone := task.Info.DescriptionId == "VirtualMachine.cloneVm"
	if !isClone && task.Info.DescriptionId != "Folder.createVm" {
		return
	}
	inv.making.Lock()
	defer inv.making.Unlock()
	for _, change := range changes {
		if change.Name != "info.state" {
			continue
		}
		switch change.Val {
		case types.TaskInfoStateRunning:
			if isClone {
				inv.clones++
			}
		case types.TaskInfoStateSuccess, types.TaskInfoStateError:
			if isClone {
				inv.clones--
			}
			if vm, ok := task.Info.Result.(types.ManagedObjectReference); ok {
				inv.made = append(inv.made, vm)
			}
		}
	}
	if inv.clones == 0 {
		for _, vm := range inv.made {
			inv.whole[vm] = true
		}
		inv.made = nil
		return
	}
	if vm, ok := task.Info.Result.(types.ManagedObjectReference); ok && isClone {
		inv.whole[vm] = true
	}
}

func (inv *Inventory) isWhole(vm types.ManagedObjectReference) bool {
	inv.making.Lock()
	defer inv.making.Unlock()
	return inv.whole[vm]
}

// saved is the file's content. Objects are in vSphere's own JSON form.
type saved struct {
	Folders []json.RawMessage `json:"folders"`
	VMs     []json.RawMessage `json:"vms"`
	Rules   []json.RawMessage `json:"rules"`
	Tags    tagContents       `json:"tags"`
}

func newInventory(file string, templates []Template) (*Inventory, error) {
	model := simulator.VPX()
	model.Host, model.ClusterHost, model.Portgroup, model.Autostart = 0, 3, 0, false
	model.Machine = 1
	if err := model.Create(); err != nil {
		return nil, err
	}
	inv := &Inventory{model: model, file: file, base: map[types.ManagedObjectReference]bool{}, changed: make(chan struct{}, 1), whole: map[types.ManagedObjectReference]bool{}}
	if err := inv.makeTemplates(templates); err != nil {
		return nil, err
	}
	inv.describeHardware()
	for _, o := range inv.registry().All("") {
		inv.base[o.Reference()] = true
	}
	return inv, nil
}

func (inv *Inventory) registry() *simulator.Registry { return inv.model.Map() }

// context is a lock owner of its own: two pieces of work must never share one.
func (inv *Inventory) context() *simulator.Context {
	return &simulator.Context{Context: context.Background(), Session: inv.model.Service.Context.Session, Map: inv.registry()}
}

func (inv *Inventory) vms() []*simulator.VirtualMachine {
	var list []*simulator.VirtualMachine
	for _, o := range inv.registry().All("VirtualMachine") {
		if vm, ok := o.(*simulator.VirtualMachine); ok {
			list = append(list, vm)
		}
	}
	sort.Slice(list, func(i, j int) bool { return number(list[i].Self) < number(list[j].Self) })
	return list
}

// number is the counted part of a managed object id: "vm-57" gives 57.
func number(ref types.ManagedObjectReference) int {
	n, _ := strconv.Atoi(ref.Value[strings.LastIndex(ref.Value, "-")+1:])
	return n
}

// makeTemplates makes the model's VM the first template, and a copy of it each further one.
func (inv *Inventory) makeTemplates(templates []Template) error {
	ctx := inv.context()
	first := inv.vms()[0]
	model, err := encode(first.VirtualMachine)
	if err != nil {
		return err
	}
	for i, t := range templates {
		vm := first
		if i > 0 {
			if vm, err = inv.copyOf(ctx, model, t.Name); err != nil {
				return err
			}
		}
		inv.registry().Update(ctx, vm, []types.PropertyChange{
			{Name: "name", Val: t.Name},
			{Name: "config.name", Val: t.Name},
			{Name: "summary.config.name", Val: t.Name},
			{Name: "config.guestId", Val: t.GuestID},
			{Name: "summary.config.guestId", Val: t.GuestID},
			{Name: "config.swapPlacement", Val: "inherit"},
		})
	}
	return nil
}

// copyOf puts a copy of a VM into the inventory. Its id has no number, so one template more in the configuration
// moves no id that a saved inventory uses.
func (inv *Inventory) copyOf(ctx *simulator.Context, model json.RawMessage, name string) (*simulator.VirtualMachine, error) {
	vm, err := decodeVM(model)
	if err != nil {
		return nil, err
	}
	vm.Self.Value = "vm-" + name
	vm.Config.Uuid = uuid.NewSHA1(uuid.NameSpaceDNS, []byte(name)).String()
	vm.Config.InstanceUuid = vm.Config.Uuid
	vm.Summary.Config.Uuid, vm.Summary.Config.InstanceUuid = vm.Config.Uuid, vm.Config.Uuid
	if err := inv.adopt(ctx, vm, vm.Parent); err != nil {
		return nil, err
	}
	inv.connect(ctx, vm)
	return vm, nil
}

// describeHardware makes every host say which hardware version and guest systems it supports. Without it the
// simulator says version 0, and clients that change a VM's size then ask for an upgrade that is refused.
func (inv *Inventory) describeHardware() {
	version, _ := strconv.Atoi(strings.TrimPrefix(esx.HardwareVersion, "vmx-"))
	var guests []types.GuestOsDescriptor
	for _, id := range simulator.GuestID {
		family := string(types.VirtualMachineGuestOsFamilyLinuxGuest)
		if strings.HasPrefix(string(id), "win") {
			family = string(types.VirtualMachineGuestOsFamilyWindowsGuest)
		}
		guests = append(guests, types.GuestOsDescriptor{Id: string(id), Family: family})
	}
	for _, o := range inv.registry().AllReference("EnvironmentBrowser") {
		browser := o.(*simulator.EnvironmentBrowser)
		browser.QueryConfigOptionResponse.Returnval = &types.VirtualMachineConfigOption{
			Version:           esx.HardwareVersion,
			HardwareOptions:   types.VirtualHardwareOption{HwVersion: int32(version)},
			DefaultDevice:     esx.VirtualDevice,
			GuestOSDescriptor: guests,
		}
	}
}

// touch notes a change; saveLoop writes it soon.
func (inv *Inventory) touch() {
	inv.dirty.Store(true)
	select {
	case inv.changed <- struct{}{}:
	default:
	}
}

// saveLoop writes the inventory after every change; changes that come together are written together. What could not
// be written, on a full disk for example, is tried again.
func (inv *Inventory) saveLoop() {
	for range inv.changed {
		time.Sleep(50 * time.Millisecond)
		if err := inv.save(); err != nil {
			log.Printf("inventory not saved: %v", err)
			time.AfterFunc(5*time.Second, inv.touch)
		}
	}
}

// save returns when every change made before it is in the file.
func (inv *Inventory) save() error {
	inv.saving.Lock()
	defer inv.saving.Unlock()
	if inv.closed || !inv.dirty.Swap(false) {
		return nil
	}
	err := inv.write()
	if err != nil {
		inv.dirty.Store(true)
	}
	return err
}

// close waits for who writes the file, and lets nobody write it again.
func (inv *Inventory) close() {
	inv.saving.Lock()
	defer inv.saving.Unlock()
	inv.closed = true
}

func (inv *Inventory) write() error {
	var s saved
	ctx := inv.context()
	for _, kind := range []string{"Folder", "VirtualMachine"} {
		objects := inv.registry().All(kind)
		sort.Slice(objects, func(i, j int) bool { return number(objects[i].Reference()) < number(objects[j].Reference()) })
		for _, o := range objects {
			if inv.base[o.Reference()] || kind == "VirtualMachine" && !inv.isWhole(o.Reference()) {
				continue
			}
			var text json.RawMessage
			var err error
			inv.registry().WithLock(ctx, o, func() {
				switch x := o.(type) {
				case *simulator.Folder:
					text, err = encode(x.Folder)
				case *simulator.VirtualMachine:
					text, err = encode(x.VirtualMachine)
				}
			})
			if err != nil {
				return fmt.Errorf("%s: %w", o.Reference().Value, err)
			}
			if kind == "Folder" {
				s.Folders = append(s.Folders, text)
			} else {
				s.VMs = append(s.VMs, text)
			}
		}
	}
	cluster := inv.cluster()
	var err error
	inv.registry().WithLock(ctx, cluster, func() {
		for _, rule := range cluster.ConfigurationEx.(*types.ClusterConfigInfoEx).Rule {
			var text json.RawMessage
			if text, err = encode(rule); err != nil {
				return
			}
			s.Rules = append(s.Rules, text)
		}
	})
	if err != nil {
		return err
	}
	if inv.tags != nil {
		if s.Tags, err = inv.tags.read(); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return writeFile(inv.file, text, 0o600)
}

func encode(value any) (json.RawMessage, error) {
	var out bytes.Buffer
	err := types.NewJSONEncoder(&out).Encode(value)
	return out.Bytes(), err
}

func decode(text json.RawMessage, value any) error {
	return types.NewJSONDecoder(bytes.NewReader(text)).Decode(value)
}

// decodeVM reads a VM as it was encoded, with what the simulator needs beside it.
func decodeVM(text json.RawMessage) (*simulator.VirtualMachine, error) {
	vm := &simulator.VirtualMachine{DataSets: map[string]*simulator.DataSet{}}
	if err := decode(text, &vm.VirtualMachine); err != nil {
		return nil, err
	}
	vm.Summary.Vm = &vm.Self
	return vm, nil
}

func (inv *Inventory) cluster() *simulator.ClusterComputeResource {
	return inv.registry().Any("ClusterComputeResource").(*simulator.ClusterComputeResource)
}

// load puts back what was saved. It returns the tags, which can only be restored once the server runs.
func (inv *Inventory) load() (tagContents, error) {
	text, err := os.ReadFile(inv.file)
	if errors.Is(err, os.ErrNotExist) {
		return tagContents{}, nil
	} else if err != nil {
		return tagContents{}, err
	}
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return tagContents{}, fmt.Errorf("%s is damaged (%w): run the lab's destroy verb to start with an empty inventory", inv.file, err)
	}
	ctx := inv.context()
	for _, text := range s.Folders {
		folder := new(simulator.Folder)
		if err := decode(text, &folder.Folder); err != nil {
			return s.Tags, err
		}
		folder.ChildEntity = nil // children announce themselves
		if err := inv.adopt(ctx, folder, folder.Parent); err != nil {
			return s.Tags, err
		}
	}
	for _, text := range s.VMs {
		vm, err := decodeVM(text)
		if err != nil {
			return s.Tags, err
		}
		if err := inv.adopt(ctx, vm, vm.Parent); err != nil {
			return s.Tags, err
		}
		inv.connect(ctx, vm)
		inv.whole[vm.Self] = true
	}
	for _, text := range s.Rules {
		var rule types.BaseClusterRuleInfo
		if err := decode(text, &rule); err != nil {
			return s.Tags, err
		}
		if err := inv.restoreRule(rule); err != nil {
			return s.Tags, err
		}
	}
	return s.Tags, inv.registry().AlignCounter()
}

func (inv *Inventory) adopt(ctx *simulator.Context, o mo.Entity, parent *types.ManagedObjectReference) error {
	if parent == nil {
		return fmt.Errorf("%s has no parent", o.Reference().Value)
	}
	folder, ok := inv.registry().Get(*parent).(*simulator.Folder)
	if !ok {
		return fmt.Errorf("%s: its folder %s is not there", o.Reference().Value, parent.Value)
	}
	inv.registry().Put(o)
	inv.registry().AddReference(ctx, folder, &folder.ChildEntity, o.Reference())
	return nil
}

// connect makes host, pool, datastore and network know the VM, and gives it its files on the datastore.
func (inv *Inventory) connect(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	r := inv.registry()
	if vm.Runtime.Host != nil {
		if host, ok := r.Get(*vm.Runtime.Host).(*simulator.HostSystem); ok {
			r.AddReference(ctx, host, &host.Vm, vm.Self)
		}
	}
	if vm.ResourcePool != nil {
		if pool, ok := r.Get(*vm.ResourcePool).(*simulator.ResourcePool); ok {
			r.AddReference(ctx, pool, &pool.Vm, vm.Self)
		}
	}
	for _, ref := range vm.Network {
		if network, ok := r.Get(ref).(*mo.Network); ok {
			r.AddReference(ctx, network, &network.Vm, vm.Self)
		}
	}
	for _, ref := range vm.Datastore {
		ds, ok := r.Get(ref).(*simulator.Datastore)
		if !ok {
			continue
		}
		r.AddReference(ctx, ds, &ds.Vm, vm.Self)
		for _, name := range vmFiles(&vm.VirtualMachine) {
			var p object.DatastorePath
			if p.FromString(name) && p.Datastore == ds.Name {
				file := filepath.Join(ds.Summary.Url, p.Path)
				_ = os.MkdirAll(filepath.Dir(file), 0o700)
				if f, err := os.OpenFile(file, os.O_CREATE, 0o600); err == nil {
					_ = f.Close()
				}
			}
		}
	}
}

func vmFiles(vm *mo.VirtualMachine) []string {
	files := []string{vm.Config.Files.VmPathName}
	for _, device := range vm.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			if backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
				files = append(files, backing.GetVirtualDeviceFileBackingInfo().FileName)
			}
		}
	}
	return files
}

// restoreRule gives a cluster rule back under the key it had. The cluster counts keys itself and begins anew, so it is
// made to count up to the key first.
func (inv *Inventory) restoreRule(rule types.BaseClusterRuleInfo) error {
	want := rule.GetClusterRuleInfo().Key
	cluster := inv.cluster()
	config := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx)
	for {
		counter := &types.ClusterAntiAffinityRuleSpec{ClusterRuleInfo: types.ClusterRuleInfo{Name: "counter"}}
		request := &types.ReconfigureComputeResource_Task{This: cluster.Self, Modify: true, Spec: &types.ClusterConfigSpecEx{
			RulesSpec: []types.ClusterRuleSpec{{ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: types.ArrayUpdateOperationAdd}, Info: counter}}}}
		done := cluster.ReconfigureComputeResourceTask(inv.context(), request).(*methods.ReconfigureComputeResource_TaskBody)
		inv.registry().Get(done.Res.Returnval).(*simulator.Task).Wait()
		config.Rule = config.Rule[:len(config.Rule)-1]
		switch key := counter.Key; {
		case key == want:
			config.Rule = append(config.Rule, rule)
			return nil
		case key > want:
			return fmt.Errorf("cluster rule %q: its key %d is taken", rule.GetClusterRuleInfo().Name, want)
		}
	}
}
