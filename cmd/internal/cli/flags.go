package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	urfave "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
)

// The names of the shared flags.
const (
	FlagOutput    = "output"
	FlagLogLevel  = "log-level"
	FlagLogFormat = "log-format"
)

// Env returns the environment variable of a flag: BAIZE_LOG_LEVEL for
// log-level.
func Env(flag string) []string {
	return []string{"BAIZE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

// LogFlags returns --log-level and --log-format.
func LogFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.StringFlag{
			Name: FlagLogLevel, Value: logrus.InfoLevel.String(), EnvVars: Env(FlagLogLevel),
			Usage: "log messages of this `LEVEL` and above: error, warn, info, debug or trace",
		},
		&urfave.StringFlag{
			Name: FlagLogFormat, Value: "text", EnvVars: Env(FlagLogFormat),
			Usage: "log in this `FORMAT`: text or json",
		},
	}
}

// Logger returns the log that the flags of LogFlags ask for.
func Logger(c *urfave.Context, w io.Writer) (*logrus.Logger, error) {
	return NewLogger(w, c.String(FlagLogLevel), c.String(FlagLogFormat))
}

// NewLogger returns a log of the given level ("error" to "trace") and format
// ("text" or "json"). Errors are of kind ErrInvalid.
func NewLogger(w io.Writer, level, format string) (*logrus.Logger, error) {
	lvl, err := logrus.ParseLevel(level)
	if err != nil || lvl < logrus.ErrorLevel { // panic and fatal: nothing logs at those
		return nil, &topology.Error{
			Kind: topology.ErrInvalid, Item: fmt.Sprintf("log level %q", level), What: "unknown",
			Remedy: "use one of error, warn, info, debug, trace",
		}
	}
	l := logrus.New()
	l.SetOutput(w)
	l.SetLevel(lvl)
	switch format {
	case "text":
		// The journal has times of its own (JOURNAL_STREAM: systemd.exec(5)).
		l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableTimestamp: os.Getenv("JOURNAL_STREAM") != ""})
	case "json":
		l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	default:
		return nil, &topology.Error{
			Kind: topology.ErrInvalid, Item: fmt.Sprintf("log format %q", format), What: "unknown",
			Remedy: "use text or json",
		}
	}
	return l, nil
}

// OnUsageError gives wrong flags the kind, and so the exit code, of wrong
// usage. It is for urfave's App and Command fields of that name.
func OnUsageError(c *urfave.Context, err error, _ bool) error {
	name := c.App.Name
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return &topology.Error{Kind: topology.ErrInvalid, Item: name, What: err.Error(), Remedy: "see '" + name + " --help'"}
}
