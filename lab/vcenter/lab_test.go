package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// paper is a hypervisor that only notes what it is told, and "boots" guests after a moment.
type paper struct {
	mu      sync.Mutex
	running map[string]time.Time
	notes   []string
}

func newPaper() *paper { return &paper{running: map[string]time.Time{}} }

func (p *paper) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

func (p *paper) Start(s Spec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[s.ID] = time.Now()
	p.note("start %s", s.Name)
	return nil
}

func (p *paper) Running(s Spec) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.running[s.ID]
	return ok
}

func (p *paper) Stop(s Spec, graceful bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.running[s.ID]; ok {
		p.note("stop %s graceful=%v", s.Name, graceful)
	}
	delete(p.running, s.ID)
	return nil
}

func (p *paper) Freeze(s Spec, on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note("freeze %s %v", s.Name, on)
	return nil
}

func (p *paper) Answers(s Spec) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	since, ok := p.running[s.ID]
	return ok && time.Since(since) > 50*time.Millisecond
}

func (p *paper) Forget(Spec) {}
func (p *paper) Adopt(Spec)  {}

func (p *paper) has(note string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.notes, note)
}

// testLab is a vCenter on a free port with a client.
type testLab struct {
	t      *testing.T
	lab    *openLab
	paper  *paper
	client *govmomi.Client
	finder *find.Finder
}

func testConfig(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	c := Config{
		State: dir, Listen: "127.0.0.1:0", User: "user", Password: "secret", Gateway: "10.77.0.1", Prefix: 24, Native: "*build*",
		Certificate: filepath.Join(dir, "cert.pem"), PrivateKey: filepath.Join(dir, "key.pem"),
		Templates: []Template{{Name: "debian-12", GuestID: "debian12_64Guest", Image: "/images/bookworm"}, {Name: "debian-13", GuestID: "debian13_64Guest", Image: "/images/trixie"}},
	}
	must(t, os.WriteFile(c.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(c.PrivateKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "machines"), 0o700))
	return c
}

func openTestLab(t *testing.T, c Config, p *paper) *testLab {
	t.Helper()
	lab, err := open(c, p)
	must(t, err)
	lab.machines.every = 10 * time.Millisecond
	must(t, lab.power.clear())
	lab.power.resume()
	return (&testLab{t: t, lab: lab, paper: p}).newSession()
}

// newSession is the same lab with a client of its own, as every concurrent user has one.
func (l *testLab) newSession() *testLab {
	l.t.Helper()
	client, err := govmomi.NewClient(context.Background(), l.lab.URL, true)
	must(l.t, err)
	finder := find.NewFinder(client.Client)
	dc, err := finder.DefaultDatacenter(context.Background())
	must(l.t, err)
	finder.SetDatacenter(dc)
	return &testLab{t: l.t, lab: l.lab, paper: l.paper, client: client, finder: finder}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l *testLab) task(task *object.Task, err error) *types.TaskInfo {
	l.t.Helper()
	must(l.t, err)
	info, err := task.WaitForResult(context.Background())
	must(l.t, err)
	return info
}

func (l *testLab) vm(name string) *object.VirtualMachine {
	l.t.Helper()
	vm, err := l.finder.VirtualMachine(context.Background(), name)
	must(l.t, err)
	return vm
}

func (l *testLab) properties(vm *object.VirtualMachine) mo.VirtualMachine {
	l.t.Helper()
	var properties mo.VirtualMachine
	must(l.t, property.DefaultCollector(l.client.Client).RetrieveOne(context.Background(), vm.Reference(), nil, &properties))
	return properties
}

// clone makes a VM as the program does: cloned, sized, with a fixed MAC, a data disk and guestinfo.
func (l *testLab) clone(name, address string, folder *object.Folder) *object.VirtualMachine {
	l.t.Helper()
	ctx := context.Background()
	pool, err := l.finder.DefaultResourcePool(ctx)
	must(l.t, err)
	if folder == nil {
		folders, err := l.finder.DefaultFolder(ctx)
		must(l.t, err)
		folder = folders
	}
	poolRef := pool.Reference()
	info := l.task(l.vm("debian-12").Clone(ctx, folder, name, types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &poolRef}}))
	vm := object.NewVirtualMachine(l.client.Client, info.Result.(types.ManagedObjectReference))
	devices, err := vm.Device(ctx)
	must(l.t, err)
	card := devices.SelectByType((*types.VirtualEthernetCard)(nil))[0].(types.BaseVirtualEthernetCard)
	card.GetVirtualEthernetCard().AddressType = string(types.VirtualEthernetCardMacTypeManual)
	card.GetVirtualEthernetCard().MacAddress = "00:50:56:4d:00:01"
	must(l.t, vm.EditDevice(ctx, card.(types.BaseVirtualDevice)))
	controller, err := devices.FindDiskController("")
	must(l.t, err)
	disk := devices.CreateDisk(controller, types.ManagedObjectReference{}, "")
	disk.CapacityInKB = 2 << 20
	disk.UnitNumber = types.NewInt32(1)
	must(l.t, vm.AddDevice(ctx, disk))
	metadata := base64.StdEncoding.EncodeToString([]byte("addresses: [" + address + "/24]"))
	l.task(vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{
		NumCPUs: 4, MemoryMB: 768, CpuHotAddEnabled: types.NewBool(true), MemoryHotAddEnabled: types.NewBool(true),
		ExtraConfig: []types.BaseOptionValue{
			&types.OptionValue{Key: "guestinfo.metadata", Value: metadata},
			&types.OptionValue{Key: "guestinfo.metadata.encoding", Value: "base64"},
		}}))
	return vm
}

func (l *testLab) eventually(what string, check func() bool) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("not within 20 s: %s; notes: %q", what, l.paper.notes)
		}
	}
}

func TestManyVMsAreClonedAndPoweredOnAtOnce(t *testing.T) {
	l := openTestLab(t, testConfig(t), newPaper())
	defer l.lab.close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wait sync.WaitGroup
	for i := range 14 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			l := l.newSession()
			dc, err := l.finder.DefaultDatacenter(ctx)
			must(t, err)
			address := fmt.Sprintf("10.77.0.%d", 10+i)
			vm := l.clone(fmt.Sprintf("web%d", i), address, nil)
			// Both ways clients use: the VM's own method, and the datacenter's.
			if i%2 == 0 {
				l.task(vm.PowerOn(ctx))
			} else {
				l.task(dc.PowerOnVM(ctx, []types.ManagedObjectReference{vm.Reference()}))
			}
			got, err := vm.WaitForIP(ctx)
			if err != nil || got != address {
				t.Errorf("VM %d reports %q, %v; want %s", i, got, err, address)
			}
		}()
	}
	wait.Wait()
}

func TestMachineIsStartedAsItsVMIsConfigured(t *testing.T) {
	c := testConfig(t)
	l := openTestLab(t, c, newPaper())
	defer l.lab.close()
	vm := l.clone("build1", "10.77.0.71", nil)
	l.task(vm.PowerOn(context.Background()))
	l.eventually("started", func() bool { return l.paper.has("start build1") })
	got := l.lab.machines.get(vm.Reference().Value).spec
	if got.MemoryMB != 768 || got.MAC != "00:50:56:4d:00:01" || got.Image != "/images/bookworm" || !got.Native || got.Address != "10.77.0.71" {
		t.Errorf("machine %+v", got)
	}
	if len(got.Disks) != 1 || got.Disks[0].Unit != 1 || got.Disks[0].Bytes != 2<<30 || got.Disks[0].UUID == "" {
		t.Errorf("disks %+v", got.Disks)
	}
}

func TestEveryTemplateCanBeClonedAndOneMoreMovesNoVM(t *testing.T) {
	ctx := context.Background()
	c := testConfig(t)
	hv := newPaper()
	l := openTestLab(t, c, hv)
	vm := l.clone("web1", "10.77.0.21", nil)
	l.eventually("saved", func() bool { _, err := os.Stat(filepath.Join(c.State, "inventory.json")); return err == nil })
	l.lab.close()

	c.Templates = append(c.Templates, Template{Name: "debian-14", GuestID: "debian13_64Guest", Image: "/images/forky"})
	l = openTestLab(t, c, hv)
	defer l.lab.close()
	if again := l.vm("web1").Reference(); again != vm.Reference() {
		t.Errorf("web1 is %s, was %s", again, vm.Reference())
	}
	seen := map[string]bool{}
	for _, template := range c.Templates {
		seen[l.properties(l.vm(template.Name)).Config.Uuid] = true
	}
	if len(seen) != len(c.Templates) {
		t.Errorf("%d templates share their UUIDs", len(c.Templates))
	}
	pool, err := l.finder.DefaultResourcePool(ctx)
	must(t, err)
	folder, err := l.finder.DefaultFolder(ctx)
	must(t, err)
	where := pool.Reference()
	spec := types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &where}}
	l.task(l.vm("debian-13").Clone(ctx, folder, "web2", spec))
	l.task(l.vm("web2").PowerOn(ctx))
	l.eventually("started", func() bool { return hv.has("start web2") })
	if got := l.lab.machines.get(l.vm("web2").Reference().Value).spec.Image; got != "/images/trixie" {
		t.Errorf("web2 boots %s", got)
	}
}

func TestGuestAndVMFollowEachOther(t *testing.T) {
	ctx := context.Background()
	l := openTestLab(t, testConfig(t), newPaper())
	defer l.lab.close()
	vm := l.clone("web1", "10.77.0.21", nil)
	id := vm.Reference().Value

	l.task(vm.PowerOn(ctx))
	l.eventually("tools run", func() bool {
		p := l.properties(vm)
		return p.Guest.ToolsRunningStatus == "guestToolsRunning" && p.Guest.IpAddress == "10.77.0.21" && p.Guest.IpStack != nil
	})

	l.task(vm.Suspend(ctx))
	l.eventually("frozen", func() bool { return l.paper.has("freeze web1 true") })
	l.task(vm.PowerOn(ctx))
	l.eventually("thawed", func() bool { return l.paper.has("freeze web1 false") })

	must(t, vm.ShutdownGuest(ctx))
	l.eventually("asked to stop", func() bool { return l.paper.has("stop web1 graceful=true") })
	if state := l.properties(vm).Runtime.PowerState; state != "poweredOff" {
		t.Errorf("power state %s", state)
	}
	l.task(vm.PowerOn(ctx))
	l.task(vm.PowerOff(ctx))
	l.eventually("stopped hard", func() bool { return l.paper.has("stop web1 graceful=false") })

	// A guest that ends by itself is a VM that is off.
	l.task(vm.PowerOn(ctx))
	l.eventually("running", func() bool { return l.paper.Running(Spec{ID: id}) })
	must(t, <-l.lab.machines.Crash(id))
	l.eventually("reported off", func() bool {
		p := l.properties(vm)
		return p.Runtime.PowerState == "poweredOff" && p.Guest.ToolsRunningStatus == "guestToolsNotRunning" && p.Guest.IpAddress == ""
	})

	machine := filepath.Join(l.lab.machines.dir, id)
	if _, err := os.Stat(machine); err != nil {
		t.Fatal("a stopped VM has lost its disks: ", err)
	}
	l.task(vm.Destroy(ctx))
	l.eventually("disks removed", func() bool { _, err := os.Stat(machine); return os.IsNotExist(err) })
}

func TestSizeCanBeChangedWithoutHardwareUpgrade(t *testing.T) {
	ctx := context.Background()
	l := openTestLab(t, testConfig(t), newPaper())
	defer l.lab.close()
	vm := l.clone("web1", "10.77.0.21", nil)
	p := l.properties(vm)
	if p.Config.SwapPlacement != "inherit" {
		t.Errorf("swap placement %q: clients would set it again on every run", p.Config.SwapPlacement)
	}
	// What a client asks before it decides whether the hardware must be upgraded.
	browser := p.EnvironmentBrowser
	if browser.Value == "" {
		var cluster mo.ClusterComputeResource
		compute, err := l.finder.DefaultClusterComputeResource(ctx)
		must(t, err)
		must(t, property.DefaultCollector(l.client.Client).RetrieveOne(ctx, compute.Reference(), []string{"environmentBrowser"}, &cluster))
		browser = *cluster.EnvironmentBrowser
	}
	option, err := object.NewEnvironmentBrowser(l.client.Client, browser).QueryConfigOption(ctx, nil)
	must(t, err)
	if own := p.Config.Version; option.Version != own || fmt.Sprintf("vmx-%d", option.HardwareOptions.HwVersion) != own {
		t.Errorf("the VM has %s, its environment offers %s (hwVersion %d)", own, option.Version, option.HardwareOptions.HwVersion)
	}
}

func TestInventorySurvivesARestart(t *testing.T) {
	ctx := context.Background()
	c := testConfig(t)
	hv := newPaper()
	l := openTestLab(t, c, hv)

	root, err := l.finder.DefaultFolder(ctx)
	must(t, err)
	folder, err := root.CreateFolder(ctx, "fleet")
	must(t, err)
	inner, err := folder.CreateFolder(ctx, "web")
	must(t, err)
	on := l.clone("web1", "10.77.0.21", inner)
	off := l.clone("web2", "10.77.0.22", folder)
	gone := l.clone("web3", "10.77.0.23", nil)
	l.task(on.PowerOn(ctx))
	l.task(gone.Destroy(ctx))
	l.eventually("booted", func() bool { return l.properties(on).Guest.IpAddress != "" })

	cluster, err := l.finder.DefaultClusterComputeResource(ctx)
	must(t, err)
	rule := func(name string, operation types.ArrayUpdateOperation, removeKey any) {
		t.Helper()
		info := &types.ClusterAntiAffinityRuleSpec{ClusterRuleInfo: types.ClusterRuleInfo{Name: name}, Vm: []types.ManagedObjectReference{on.Reference(), off.Reference()}}
		spec := types.ClusterRuleSpec{ArrayUpdateSpec: types.ArrayUpdateSpec{Operation: operation, RemoveKey: removeKey}, Info: info}
		object := object.NewClusterComputeResource(l.client.Client, cluster.Reference())
		l.task(object.Reconfigure(ctx, &types.ClusterConfigSpecEx{RulesSpec: []types.ClusterRuleSpec{spec}}, true))
	}
	rules := func() map[string]int32 {
		config, err := object.NewClusterComputeResource(l.client.Client, cluster.Reference()).Configuration(ctx)
		must(t, err)
		keys := map[string]int32{}
		for _, r := range config.Rule {
			keys[r.GetClusterRuleInfo().Name] = r.GetClusterRuleInfo().Key
		}
		return keys
	}
	rule("first", types.ArrayUpdateOperationAdd, nil)
	rule("second", types.ArrayUpdateOperationAdd, nil)
	rule("first", types.ArrayUpdateOperationRemove, int32(1))

	session := rest.NewClient(l.client.Client)
	must(t, session.Login(ctx, l.lab.URL.User))
	manager := tags.NewManager(session)
	category, err := manager.CreateCategory(ctx, &tags.Category{Name: "fleet", Cardinality: "MULTIPLE", AssociableTypes: []string{"urn:vim25:VirtualMachine"}})
	must(t, err)
	tag, err := manager.CreateTag(ctx, &tags.Tag{Name: "mutualised", CategoryID: category})
	must(t, err)
	must(t, manager.AttachTag(ctx, tag, off.Reference()))

	before := map[string]mo.VirtualMachine{"web1": l.properties(on), "web2": l.properties(off), "debian-12": l.properties(l.vm("debian-12"))}
	beforeCluster, beforeRules := cluster.Reference(), rules()
	time.Sleep(100 * time.Millisecond)
	must(t, l.lab.inv.save())
	l.lab.close()

	l = openTestLab(t, c, hv)
	defer l.lab.close()
	for name, want := range before {
		got := l.properties(l.vm(name))
		if got.Self != want.Self || got.Config.Uuid != want.Config.Uuid || got.Config.InstanceUuid != want.Config.InstanceUuid || got.Parent.Value != want.Parent.Value ||
			got.Runtime.PowerState != want.Runtime.PowerState || len(got.Config.Hardware.Device) != len(want.Config.Hardware.Device) ||
			len(got.Config.ExtraConfig) != len(want.Config.ExtraConfig) || got.ResourcePool.Value != want.ResourcePool.Value {
			t.Errorf("%s was %s %s, is %s %s", name, want.Self, want.Config.Uuid, got.Self, got.Config.Uuid)
		}
	}
	if _, err := l.finder.VirtualMachine(ctx, "fleet/web/web1"); err != nil {
		t.Error(err)
	}
	if _, err := l.finder.VirtualMachine(ctx, "web3"); err == nil {
		t.Error("a deleted VM has come back")
	}
	cluster, err = l.finder.DefaultClusterComputeResource(ctx)
	must(t, err)
	if cluster.Reference() != beforeCluster {
		t.Errorf("cluster was %s, is %s", beforeCluster, cluster.Reference())
	}
	if got := rules(); len(got) != 1 || got["second"] != beforeRules["second"] {
		t.Errorf("rules were %v, are %v", beforeRules, got)
	}
	rule("third", types.ArrayUpdateOperationAdd, nil)
	if got := rules()["third"]; got != beforeRules["second"]+1 {
		t.Errorf("a new rule got key %d", got)
	}

	session = rest.NewClient(l.client.Client)
	must(t, session.Login(ctx, l.lab.URL.User))
	manager = tags.NewManager(session)
	attached, err := manager.GetAttachedTags(ctx, off.Reference())
	must(t, err)
	if len(attached) != 1 || attached[0].ID != tag || attached[0].CategoryID != category {
		t.Errorf("tags of web2: %+v", attached)
	}
	restored, err := manager.GetCategory(ctx, category)
	must(t, err)
	if !slices.Equal(restored.AssociableTypes, []string{"VirtualMachine"}) {
		t.Errorf("associable types %v", restored.AssociableTypes)
	}

	// What was restored can be worked with: the machine still runs and is taken over; VMs change, start and go.
	l.eventually("address again", func() bool { return l.properties(l.vm("web1")).Guest.IpAddress == "10.77.0.21" })
	l.task(l.vm("web2").PowerOn(ctx))
	l.eventually("web2 started", func() bool { return hv.has("start web2") })
	l.task(l.vm("web1").Reconfigure(ctx, types.VirtualMachineConfigSpec{MemoryMB: 1024}))
	fresh := l.clone("web4", "10.77.0.24", nil)
	for _, old := range before {
		if fresh.Reference() == old.Self {
			t.Errorf("a new VM got the id of an old one: %s", old.Self)
		}
	}
	l.task(l.vm("web1").PowerOff(ctx))
	l.task(l.vm("web1").Destroy(ctx))
	if starts := count(hv.notes, "start web1"); starts != 1 {
		t.Errorf("web1 was started %d times: a machine that runs must be taken over", starts)
	}
}

func count(list []string, what string) int {
	n := 0
	for _, x := range list {
		if x == what {
			n++
		}
	}
	return n
}

func TestMachineThatDiedWithTheLabIsBootedAgain(t *testing.T) {
	ctx := context.Background()
	c := testConfig(t)
	l := openTestLab(t, c, newPaper())
	l.task(l.clone("web1", "10.77.0.21", nil).PowerOn(ctx))
	time.Sleep(100 * time.Millisecond)
	must(t, l.lab.inv.save())
	l.lab.close()
	after := newPaper() // nothing runs any more
	l = openTestLab(t, c, after)
	defer l.lab.close()
	l.eventually("started again", func() bool { return after.has("start web1") })
}

func TestDestroyedMachineStaysAwayFromLists(t *testing.T) {
	machines := newMachines(t.TempDir(), newPaper(), func(string, Event) {})
	for i := range 5 {
		id := fmt.Sprint("vm-", i)
		must(t, <-machines.Start(Spec{ID: id}))
		for file := range 200 { // it takes a while to remove
			must(t, os.WriteFile(filepath.Join(machines.machineDir(id), fmt.Sprint(file)), nil, 0o600))
		}
		for done := machines.Destroy(id); ; {
			ended := len(done) == 1
			if list := machines.Status(); !ended {
				continue
			} else if len(list) > 0 {
				t.Fatalf("a destroyed machine is listed: %+v", list)
			}
			must(t, <-done)
			break
		}
	}
}

func TestMachineOfNoVMGoesAtTheNextStartAndTheAnnexStays(t *testing.T) {
	c := testConfig(t)
	hv := newPaper()
	machines := newMachines(filepath.Join(c.State, "machines"), hv, func(string, Event) {})
	for _, id := range []string{"vm-99", "annex"} {
		must(t, <-machines.Start(Spec{ID: id, Name: id, Image: "/images/bookworm"}))
	}
	must(t, os.Mkdir(machines.machineDir("vm-100"), 0o700)) // killed while it removed a machine
	without := openTestLab(t, c, hv)
	if hv.has("stop vm-99 graceful=false") {
		t.Error("a machine was removed though no inventory was ever written")
	}
	without.clone("web1", "10.77.0.21", nil)
	must(t, without.lab.inv.save())
	without.lab.close()
	l := openTestLab(t, c, hv)
	defer l.lab.close()
	if !hv.has("stop vm-99 graceful=false") {
		t.Error("a machine of no VM was left")
	}
	for id, want := range map[string]bool{"vm-99": false, "vm-100": false, "annex": true} {
		if _, err := os.Stat(machines.machineDir(id)); (err == nil) != want {
			t.Errorf("%s: directory there: %v, want %v", id, err == nil, want)
		}
	}
	if hv.has("stop annex graceful=false") {
		t.Error("the annex was stopped")
	}
}

func TestInventoryThatCouldNotBeSavedIsSavedLater(t *testing.T) {
	c := testConfig(t)
	l := openTestLab(t, c, newPaper())
	defer l.lab.close()
	file := l.lab.inv.file
	must(t, os.MkdirAll(filepath.Join(file, "in the way"), 0o700))
	l.clone("web1", "10.77.0.21", nil)
	if l.lab.inv.save() == nil {
		t.Fatal("saved over a directory")
	}
	must(t, os.RemoveAll(file))
	must(t, l.lab.inv.save())
	if text, err := os.ReadFile(file); err != nil || !bytes.Contains(text, []byte("web1")) {
		t.Errorf("the VM is not in the file (%v)", err)
	}
}

func TestGuestAddressIsReadFromEveryEncoding(t *testing.T) {
	plain := "network:\n  ethernets:\n    nic0:\n      addresses: [10.77.0.9/24]\n"
	for encoding, value := range map[string]string{
		"":            plain,
		"base64":      base64.StdEncoding.EncodeToString([]byte(plain)),
		"gzip+base64": gzipped(t, plain),
	} {
		got := guestAddress(map[string]string{"guestinfo.metadata": value, "guestinfo.metadata.encoding": encoding})
		if got != "10.77.0.9" {
			t.Errorf("encoding %q: %q", encoding, got)
		}
	}
	if got := guestAddress(map[string]string{"guestinfo.metadata": "dhcp4: true"}); got != "" {
		t.Errorf("no address, but %q", got)
	}
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write([]byte(text))
	must(t, err)
	must(t, w.Close())
	return base64.StdEncoding.EncodeToString(out.Bytes())
}
