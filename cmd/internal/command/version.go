package command

import (
	"fmt"
	"runtime"
	"runtime/debug"

	ucli "github.com/urfave/cli/v2"
)

// Version, Commit and Date are stamped by the build:
//
//	go build -ldflags "-X github.com/baize-net/baize/cmd/internal/command.Version=v1.0.0 …"
//
// Left empty, they come from what the Go toolchain records in every binary.
var (
	Version string
	Commit  string
	Date    string
)

// versionItem is the version in JSON and YAML.
type versionItem struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// currentVersion returns what this executable was built from.
func currentVersion() versionItem {
	info, _ := debug.ReadBuildInfo()
	return versionOf(info, versionItem{Version: Version, Commit: Commit, Date: Date})
}

// versionOf fills in what was not stamped. info may be nil.
func versionOf(info *debug.BuildInfo, v versionItem) versionItem {
	v.Go, v.OS, v.Arch = runtime.Version(), runtime.GOOS, runtime.GOARCH
	if info != nil {
		if v.Version == "" && info.Main.Version != "(devel)" {
			v.Version = info.Main.Version
		}
		dirty := ""
		commit := ""
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = s.Value
			case "vcs.time":
				if v.Date == "" {
					v.Date = s.Value
				}
			case "vcs.modified":
				if s.Value == "true" {
					dirty = "-dirty"
				}
			}
		}
		if v.Commit == "" && commit != "" {
			v.Commit = commit + dirty
		}
	}
	if v.Version == "" {
		v.Version = "devel"
	}
	if v.Commit == "" {
		v.Commit = "unknown"
	}
	return v
}

func (r *runner) versionCommand() *ucli.Command {
	return &ucli.Command{
		Name: "version", Usage: "show the version of baize",
		Description: `The version, the commit and the Go release that it was built of and with.

  baize version -o json`,
		Flags: []ucli.Flag{outputFlag("text", "json", "yaml")},
		Action: func(c *ucli.Context) error {
			format, err := outputOf(c)
			if err != nil {
				return err
			}
			v := currentVersion()
			if format != "text" {
				return r.data(format, v)
			}
			_, err = fmt.Fprintf(r.Out, "baize %s\ncommit %s\n%s %s/%s\n", v.Version, v.Commit, v.Go, v.OS, v.Arch)
			return err
		},
	}
}
