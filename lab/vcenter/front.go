package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

const taggingPath = "/rest/com/vmware/cis/tagging/"

// front stands before the simulator's HTTP handler, where two of its gaps can be closed:
// tags change without any notice, so every tag request that may change something marks the inventory as changed;
// and a category's associable types come back as they were sent, while vCenter gives them without their name space.
func front(next http.Handler, changed func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, taggingPath) {
			next.ServeHTTP(w, r)
			return
		}
		if strings.HasPrefix(r.URL.Path, taggingPath+"category") && r.Method != http.MethodGet && r.Body != nil {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = bytes.ReplaceAll(body, []byte(`"urn:vim25:`), []byte(`"`))
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		next.ServeHTTP(w, r)
		if r.Method != http.MethodGet && !strings.Contains(r.URL.RawQuery, "~action=list") {
			changed()
		}
	})
}
