package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	// initLog is the name under which pid 1 itself has its log.
	initLog         = "init"
	logLinesInError = 12
)

func logDir(dir string) string { return filepath.Join(dir, "log") }

func logFile(dir, service string) string { return filepath.Join(logDir(dir), service+".log") }

// logFiles are the logs that may tell why a service does not work.
func logFiles(dir, service string) []string {
	return []string{logFile(dir, service), logFile(dir, service+".daemon"), logFile(dir, initLog)}
}

// WithLog adds to an error what the logs of a service say last.
func (m Member) WithLog(service string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	for _, f := range logFiles(m.Dir, service) {
		if t := Tail(f, logLinesInError); t != "" {
			err = fmt.Errorf("%w\n--- the end of %s:\n%s", err, f, t)
		}
	}
	return err
}

// Tail returns the last lines of a log for an error message.
func Tail(file string, lines int) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 4096
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
