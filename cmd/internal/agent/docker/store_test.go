package docker

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// storeOf writes a store of an engine and settings that lead to it, and returns the settings' file.
func storeOf(t *testing.T, store string) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, storeFile)), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, storeFile), []byte(store), 0o600))
	settings := filepath.Join(t.TempDir(), "daemon.json")
	b, err := json.Marshal(map[string]any{"data-root": root, "log-level": "warn"})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(settings, b, 0o600))
	return settings
}

// The name is that of the endpoint's own record, whatever else is in the file.
func TestStoredName(t *testing.T) {
	id := func(c string) string { return strings.Repeat(c, 64) }
	record := func(id, rest string) string {
		return fmt.Sprintf(`{"anonymous":false,"ep_iface":{"addr":"10.1.0.2/16","name":"not this"},"generic":{"id":"x"},"id":"%s",`+
			`"joinInfo":{"name":"nor this"},%s"sandbox":"s","svcName":""}`, id, rest) + "docker/network/v1.0/endpoint/"
	}
	settings := storeOf(t, "\x00\x01"+record(id("a"), `"name":"web",`)+`{"ID":"s","Eps":[{"Eid":"`+id("b")+`"}]}`+
		record(id("b"), "")+record(id("b"), `"name":"front-1",`)+`"id":"`+id("c")+`","name":"cut o`)
	for endpoint, want := range map[string]string{"a": "web", "b": "front-1", "c": "", "d": ""} {
		got, err := storedName(settings, id(endpoint))
		require.Equal(t, want, got, endpoint)
		require.Equal(t, want == "", err != nil, endpoint)
	}
	_, err := storedName(storeOf(t, ""), id("a"))
	require.ErrorContains(t, err, storeFile+" has no endpoint aaaaaaaaaaaa")
	require.Equal(t, defaultRoot, dataRoot(filepath.Join(t.TempDir(), "none.json")))
}

// An engine that starts containers and answers nobody yet has their names in its store.
func TestNameOfASilentEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "engine.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	defer l.Close()
	p := New(nil, filepath.Join(t.TempDir(), "docker.json"), socket, quiet())
	p.settings = storeOf(t, `"id":"e1","name":"web"}`)
	require.Equal(t, "web", p.nameOf(t.Context(), "n1", "e1"))
	begin := time.Now()
	require.Equal(t, "web", p.nameOf(t.Context(), "n1", "e1"))
	require.Less(t, time.Since(begin), nameTimeout, "it is not asked again at once")
	require.Empty(t, p.nameOf(t.Context(), "n1", "e2"))
}
