package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"maps"
	"regexp"
	"slices"
)

// guestinfoArchive is what the guest reads instead of VMware's backdoor: one file for each key.
func guestinfoArchive(uuid string, values map[string]string) []byte {
	all := maps.Clone(values)
	if all == nil {
		all = map[string]string{}
	}
	all["uuid"] = uuid
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		_ = w.WriteHeader(&tar.Header{Name: key, Mode: 0o600, Size: int64(len(all[key]))})
		_, _ = w.Write([]byte(all[key]))
	}
	_ = w.Close()
	return out.Bytes()
}

var addressWithPrefix = regexp.MustCompile(`\b(\d{1,3}(?:\.\d{1,3}){3})/\d{1,2}\b`)

// guestAddress is the first static address in the guest's own network configuration, "" when there is none.
func guestAddress(values map[string]string) string {
	text := decodeGuestinfo(values["guestinfo.metadata"], values["guestinfo.metadata.encoding"])
	if match := addressWithPrefix.FindSubmatch(text); match != nil {
		return string(match[1])
	}
	return ""
}

// decodeGuestinfo undoes the encodings cloud-init knows: none, base64 (b64), gzip+base64 (gz+b64).
func decodeGuestinfo(value, encoding string) []byte {
	switch encoding {
	case "base64", "b64":
		text, _ := base64.StdEncoding.DecodeString(value)
		return text
	case "gzip+base64", "gz+b64":
		text, _ := base64.StdEncoding.DecodeString(value)
		unzip, err := gzip.NewReader(bytes.NewReader(text))
		if err != nil {
			return nil
		}
		text, _ = io.ReadAll(unzip)
		return text
	default:
		return []byte(value)
	}
}
