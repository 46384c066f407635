package vswitch

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// damagedDatabase returns the file of this host's database and what is wrong with it, where
// ovsdb-server cannot read it and so does not start (ovsdb-tool(1), db-version).
func damagedDatabase() (file, why string) {
	dir := os.Getenv("OVS_DBDIR")
	if dir == "" {
		dir = "/etc/openvswitch"
	}
	file = filepath.Join(dir, "conf.db")
	if _, err := os.Stat(file); err != nil {
		return file, ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ovsdb-tool", "db-version", file).CombinedOutput()
	text := strings.TrimPrefix(strings.TrimSpace(string(out)), "ovsdb-tool: ")
	damaged := strings.HasPrefix(text, "ovsdb error: ") || strings.HasPrefix(text, "syntax error: ")
	if err == nil || !damaged { // who may not open it gets an "I/O error: "
		return file, ""
	}
	return file, strings.TrimPrefix(strings.Replace(text, file+": ", "", 1), "ovsdb error: ")
}
