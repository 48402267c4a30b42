package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Config is written by the lab's command line before this program starts.
type Config struct {
	// State is the lab's directory: inventory, machines' disks, run files, logs.
	State string `json:"state"`
	// Listen is where the vSphere API answers, over TLS, e.g. "127.0.0.1:8989".
	Listen      string `json:"listen"`
	User        string `json:"user"`
	Password    string `json:"password"`
	Certificate string `json:"certificate"` // PEM file
	PrivateKey  string `json:"privateKey"`  // PEM file
	// Control is the unix socket of the lab's own verbs.
	Control string `json:"control"`
	// Kernel is the User-Mode Linux program guests run on.
	Kernel string `json:"kernel"`
	// Namespace and Bridge name the network every machine is plugged into.
	Namespace string `json:"namespace"`
	Bridge    string `json:"bridge"`
	// Gateway and Prefix are what guests use; reported as vCenter's tools would.
	Gateway string `json:"gateway"`
	Prefix  int32  `json:"prefix"`
	// Templates are the VMs that exist to be cloned, one for each Debian release.
	Templates []Template `json:"templates"`
	// Native is a shell pattern of VM names that run on the computer's own kernel, e.g. "*build*".
	Native string `json:"native"`
}

// Template says which image the clones of a template boot.
type Template struct {
	Name    string `json:"name"`
	GuestID string `json:"guestId"` // vSphere's name of the release, carried over to every clone
	Image   string `json:"image"`   // directory with root.img and tree/
}

func readConfig(file string) (Config, error) {
	var c Config
	text, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	if len(c.Templates) == 0 {
		return c, fmt.Errorf("%s: templates is empty: give at least one {name, guestId, image}", file)
	}
	if _, err := filepath.Match(c.Native, ""); err != nil {
		return c, fmt.Errorf("%s: native %q is no shell pattern: %w", file, c.Native, err)
	}
	return c, nil
}

// imageOf returns the image for a guest id; an unknown one gets the first template's.
func (c Config) imageOf(guestID string) string {
	for _, t := range c.Templates {
		if t.GuestID == guestID {
			return t.Image
		}
	}
	return c.Templates[0].Image
}

// writeFile writes the whole file or nothing, and is on disk when it returns.
func writeFile(name string, content []byte, mode os.FileMode) error {
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(part, name)
}
