package docker

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// FuzzRequests: whatever an engine sends to any method is answered in JSON: with what it
// asked for, or with why not.
func FuzzRequests(f *testing.F) {
	methods := []string{
		"NetworkDriver.CreateNetwork", "NetworkDriver.CreateEndpoint", "NetworkDriver.EndpointOperInfo", "NetworkDriver.Join",
		"NetworkDriver.Leave", "NetworkDriver.DeleteEndpoint", "NetworkDriver.DeleteNetwork", "IpamDriver.RequestPool",
		"IpamDriver.ReleasePool", "IpamDriver.RequestAddress", "IpamDriver.ReleaseAddress", "Plugin.Activate",
	}
	for i, body := range []string{
		creation("10.1.0.0/16", `"baize.network":"blue","baize.mtu":"1400","baize.allow":"10.9.0.0/16,ra","baize.bum":"off"`),
		`{"NetworkID":"` + netID + `","EndpointID":"` + epID + `","Interface":{"Address":"10.1.5.2/16","MacAddress":""}}`,
		`{"NetworkID":"` + netID + `","EndpointID":"` + epID + `","SandboxKey":"/var/run/docker/netns/x"}`,
		`{"AddressSpace":"baize","Pool":"10.1.0.0/16","SubPool":"10.1.5.0/24","Options":{"baize.network":"blue"},"V6":false}`,
		`{"PoolID":"blue/10.1.0.0/16/10.1.5.0/24","Address":"10.1.5.9","Options":{"RequestAddressType":"com.docker.network.gateway"}}`,
		`{"Options":{"com.docker.network.generic":7},"IPv4Data":[{"Pool":"fd00::/48","AuxAddresses":{"a":"10.1.5.9/16"}}]}`,
	} {
		f.Add(uint8(i), body)
	}
	f.Fuzz(func(t *testing.T, method uint8, body string) {
		h := newPlugin(t, &node{}).Handler()
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, "/"+methods[int(method)%len(methods)], strings.NewReader(body))
		// Some wait for an engine that tells of its networks.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%q is no answer: %v", w.Body, err)
		}
		if refused, _ := answer["Err"].(string); (refused != "") != (w.Code != http.StatusOK) {
			t.Fatalf("status %d with %q", w.Code, refused)
		}
	})
}
