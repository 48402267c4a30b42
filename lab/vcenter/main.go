// fleet-vcenter answers the vSphere API and boots a real Debian machine for every VM that is powered on.
//
// It owns the inventory (govmomi's simulator, saved on every change) and the machines' processes. Machines outlive it:
// after a restart it takes over those that still run and boots the others from their disks.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	_ "github.com/vmware/govmomi/lookup/simulator"
	_ "github.com/vmware/govmomi/pbm/simulator"
	_ "github.com/vmware/govmomi/sts/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fleet-vcenter CONFIG.json")
		os.Exit(2)
	}
	config, err := readConfig(os.Args[1])
	if err == nil {
		err = serve(config)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(config Config) error {
	cgroupParent = config.Namespace
	hv := newHypervisor(config)
	machinesDir := filepath.Join(config.State, "machines")
	for _, dir := range []string{machinesDir, filepath.Join(config.State, "run", "guests"), filepath.Join(config.State, "logs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	quit := make(chan bool, 1)
	lab, err := open(config, hv)
	if err != nil {
		return err
	}
	defer lab.close()
	if err := lab.power.clear(); err != nil {
		log.Print(err)
	}
	lab.power.resume()
	if err := (&control{power: lab.power, machines: lab.machines, hv: hv, quit: quit}).serve(config.Control); err != nil {
		return err
	}
	log.Printf("vCenter listens on %s", config.Listen)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	select {
	case s := <-signals:
		log.Printf("ending on %s; machines go on", s)
	case stop := <-quit:
		if stop {
			log.Print("ending, and stopping every machine")
			if err := lab.machines.StopAll(true); err != nil {
				log.Print(err)
			}
		}
	}
	_ = os.Remove(config.Control)
	return lab.inv.save()
}

// openLab is a running vCenter with its machines.
type openLab struct {
	inv      *Inventory
	machines *Machines
	power    *Power
	server   interface{ Close() }
	URL      *url.URL
}

func (l *openLab) close() {
	l.inv.close()
	l.server.Close()
	l.inv.model.Remove()
}

func open(config Config, hv Hypervisor) (*openLab, error) {
	certificate, err := tls.LoadX509KeyPair(config.Certificate, config.PrivateKey)
	if err != nil {
		return nil, err
	}
	inv, err := newInventory(filepath.Join(config.State, "inventory.json"), config.Templates)
	if err != nil {
		return nil, err
	}
	remembered, err := inv.load()
	if err != nil {
		return nil, err
	}
	power := &Power{config: config, inv: inv}
	power.machines = newMachines(filepath.Join(config.State, "machines"), hv, power.observed)
	inv.registry().AddHandler(power)
	inv.registry().Handler = power.Method

	service := inv.model.Service
	user := url.UserPassword(config.User, config.Password)
	service.Listen = &url.URL{Host: config.Listen, User: user}
	service.RegisterEndpoints = true
	service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server := service.NewServer()
	server.Config.Handler = front(server.Config.Handler, inv.touch)

	client, err := vim25.NewClient(context.Background(), soap.NewClient(server.URL, true))
	if err != nil {
		return nil, err
	}
	store := restTags{client: client, user: user}
	if err := store.restore(remembered); err != nil {
		return nil, err
	}
	inv.tags = store
	go inv.saveLoop()
	return &openLab{inv: inv, machines: power.machines, power: power, server: server, URL: server.URL}, nil
}
