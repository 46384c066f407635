package command

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/doctor/gather"
	"github.com/baize-net/baize/topology"
)

// Names of files in a bundle.
const (
	bundleFacts  = "facts.json"
	bundleReport = "report.txt"
)

// largestFact bounds what is read of a bundle.
const largestFact = 64 << 20

// bundle writes a report, the facts that it was made of, and what else may help.
func (r *runner) bundle(c *ucli.Context, facts doctor.Facts, report doctor.Report) error {
	file := c.String("bundle")
	b, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		return err
	}
	cfg, err := r.gatherConfig(c)
	if err != nil {
		return err
	}
	files := append([]gather.File{
		{Name: bundleReport, Text: report.Text(doctor.Style{Verbose: true})}, {Name: bundleFacts, Text: string(b)},
	}, gather.Files(c.Context, cfg)...)
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, f := range files {
		head := &tar.Header{Name: "baize-doctor/" + f.Name, Mode: 0o600, Size: int64(len(f.Text)), ModTime: facts.At}
		if err = archive.WriteHeader(head); err == nil {
			_, err = io.WriteString(archive, f.Text)
		}
		if err != nil {
			return err
		}
	}
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		return err
	}
	// Readable by its owner alone: it has addresses and names, though no secrets.
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		return err
	}
	if err := r.note("%s: %d files, %d kB; no passwords and no keys are in it", file, len(files),
		out.Len()>>10); err != nil {
		return err
	}
	return r.diagnosis(c, report, facts.Silent())
}

// doctorFile looks at a bundle or a backup.
func (r *runner) doctorFile(c *ucli.Context) error {
	file := c.String("file")
	b, err := r.readFile(file)
	if err != nil {
		return err
	}
	if facts, ok, err := factsOf(b); err != nil {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: file, What: "the bundle cannot be read: " + err.Error(),
			Remedy: "is it complete? 'tar tzf' lists it",
		}
	} else if ok {
		return r.diagnosis(c, doctor.Examine(facts), false)
	}
	backup, err := topology.ParseBackup(b)
	if err != nil {
		return err
	}
	return r.diagnosis(c, doctor.OnPaper(backup.Snapshot(), time.Now(), currentVersion().Version), false)
}

// factsOf reads the facts of a bundle; ok is false where the file is none.
func factsOf(b []byte) (facts doctor.Facts, ok bool, err error) {
	zip, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return facts, false, nil
	}
	archive := tar.NewReader(zip)
	for {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return facts, false, fmt.Errorf("%s is not in it", bundleFacts)
		}
		if err != nil {
			return facts, false, err
		}
		if head.Name == "baize-doctor/"+bundleFacts {
			err := json.NewDecoder(io.LimitReader(archive, largestFact)).Decode(&facts)
			return facts, err == nil, err
		}
	}
}

// preflight looks at a host before an agent is installed on it.
func (r *runner) preflight(c *ucli.Context) error {
	cfg, err := r.gatherConfig(c)
	if err != nil {
		return err
	}
	var etcd []netip.Addr
	for _, e := range cfg.Etcd.Endpoints {
		if _, rest, ok := strings.Cut(e, "://"); ok {
			e = rest
		}
		if ap, err := netip.ParseAddrPort(e); err == nil {
			etcd = append(etcd, ap.Addr())
		}
	}
	facts, err := waiting(r, c, "looking at this host", func(ctx context.Context) (doctor.Facts, error) {
		return gather.Preflight(ctx, cfg, c.String("vtep"), etcd)
	})
	if err != nil {
		return err
	}
	return r.diagnosis(c, doctor.BeforeInstall(facts), false)
}
