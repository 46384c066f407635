package docker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// What an engine keeps (libnetwork's store, a bbolt file: one record for each endpoint, as
// JSON with its keys in order), at the place where its settings say it is.
const (
	engineSettings = "/etc/docker/daemon.json"
	defaultRoot    = "/var/lib/docker"
	storeFile      = "network/files/local-kv.db"
	// maxStore bounds what is read: a store has some kilobytes for each endpoint.
	maxStore = 64 << 20
)

// storedName returns what an endpoint is called in the engine's own store. The engine
// starts what is to be restarted before it answers anybody, and only there it says who it
// is that starts. Nothing else is read of the store: its form is nobody's promise, though
// it is the same from version 20.10 to 29.
func storedName(settings, endpoint string) (string, error) {
	file := filepath.Join(dataRoot(settings), storeFile)
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStore))
	if err != nil {
		return "", err
	}
	// The engine holds the file's lock while it runs, so the file is not opened as what it
	// is. Pages that it has given up are found as well, and say the same: an endpoint's
	// name does not change before its container runs.
	for rest := b; ; {
		_, after, found := bytes.Cut(rest, []byte(`"id":"`+endpoint+`"`))
		if !found {
			return "", fmt.Errorf("%s has no endpoint %.12s", file, endpoint)
		}
		var record struct{ Name string }
		object := io.MultiReader(strings.NewReader(`{"id":""`), bytes.NewReader(after))
		if json.NewDecoder(object).Decode(&record) == nil && record.Name != "" {
			return record.Name, nil
		}
		rest = after
	}
}

// dataRoot returns the folder in which an engine keeps what it has.
func dataRoot(settings string) string {
	var s struct {
		Root string `json:"data-root"`
	}
	if b, err := os.ReadFile(settings); err != nil || json.Unmarshal(b, &s) != nil || s.Root == "" {
		return defaultRoot
	}
	return s.Root
}
