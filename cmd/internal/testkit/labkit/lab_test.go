package labkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// raceReport is one of the race detector, with the function of each access.
func raceReport(functions ...string) string {
	text := "==================\nWARNING: DATA RACE\n"
	for i, f := range functions {
		text += []string{"Write", "Previous read"}[i%2] + " at 0x00c000123456 by goroutine 7:\n  " + f +
			"()\n      /src/file.go:12 +0x1d4\n  main.main()\n      /src/main.go:3 +0x9\n\n"
	}
	return text + "Goroutine 7 (running) created at:\n  main.main()\n      /src/main.go:4 +0x9\n==================\n"
}

func TestDataRace(t *testing.T) {
	const (
		ours   = "github.com/baize-net/baize/cmd/internal/agent.(*Agent).Run"
		theirs = "github.com/osrg/gobgp/v4/internal/pkg/table.(*Table).update"
	)
	for name, c := range map[string]struct {
		log  string
		want string // a part of the report; empty: there is none
	}{
		"nothing":               {"level=info msg=\"agent starts\"\n", ""},
		"empty":                 {"", ""},
		"ours":                  {"x\n" + raceReport(ours, ours) + "y\n", ours},
		"GoBGP's":               {raceReport(theirs, theirs), ""},
		"ours with GoBGP":       {raceReport(ours, theirs), ours},
		"GoBGP with ours":       {raceReport(theirs, ours), ours},
		"ours after GoBGP's":    {raceReport(theirs, theirs) + "x\n" + raceReport(ours, ours), ours},
		"GoBGP's, twice":        {raceReport(theirs, theirs) + raceReport(theirs, theirs), ""},
		"cut off at the start":  {"WARNING: DATA RACE", "\x00"},
		"cut off at an access":  {"WARNING: DATA RACE\nWrite at 0x00c000123456 by goroutine 7:", "Write at"},
		"without a known frame": {raceReport("runtime.mapassign"), "runtime.mapassign"},
	} {
		t.Run(name, func(t *testing.T) {
			report := dataRace([]byte(c.log))
			switch c.want {
			case "":
				assert.Nil(t, report)
			case "\x00":
				assert.NotNil(t, report)
			default:
				assert.Contains(t, string(report), c.want)
				assert.Equal(t, 1, strings.Count(string(report), "Write at"), "the one report alone")
			}
		})
	}
}

// What a host's agent writes at its end is found after the directory is gone.
func TestLogsOfAHostThatGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "host4")
	file := filepath.Join(dir, "log", "agent.log")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte("starts\n"), 0o644))
	logs := openLogs(dir)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(raceReport("main.f", "main.g"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.RemoveAll(dir))
	texts := readLogs(logs)
	require.Contains(t, texts, file)
	assert.NotNil(t, dataRace(texts[file]))
}
