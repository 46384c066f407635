package command

import (
	"fmt"
	"strings"

	ucli "github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology/etcdserver"
)

func (r *runner) etcdCommand() *ucli.Command {
	return &ucli.Command{
		Name: "etcd", Usage: "run an etcd server, for a lab, a single machine or trying things out",
		Description: `The real etcd server, in this process: no cluster has to be set up. In production
use a cluster of three or five members instead. With --log-level debug it writes
its log.

  baize etcd --data-dir ./etcd
  baize etcd --listen-client-urls http://192.0.2.1:2379`,
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "data-dir", Usage: "`DIRECTORY` of the database", Value: "/var/lib/baize/etcd"},
			&ucli.StringFlag{Name: "name", Usage: "`NAME` of this member", Value: "baize"},
			&ucli.StringSliceFlag{
				Name:        "listen-client-urls",
				Usage:       "`URL` to serve: http://, https:// or unix://; repeat it or separate with commas",
				DefaultText: "http://localhost:2379",
			},
			&ucli.StringSliceFlag{
				Name:  "listen-peer-urls",
				Usage: "`URL` for the other members of a cluster (default a free port on the loopback)",
			},
			&ucli.StringFlag{
				Name:  "initial-cluster",
				Usage: "`MEMBERS` of a cluster and their peer URLs: a=http://10.0.0.1:2380,b=… (default this one alone)",
			},
			&ucli.BoolFlag{Name: "join", Usage: "join a cluster that runs already"},
			&ucli.StringFlag{Name: "cert-file", Usage: "PEM `FILE` of the server's certificate, for https://"},
			&ucli.StringFlag{Name: "key-file", Usage: "PEM `FILE` of its key"},
			&ucli.StringFlag{
				Name:  "trusted-ca-file",
				Usage: "PEM `FILE` of the authority whose client certificates are accepted; all others are refused",
			},
			&ucli.BoolFlag{
				Name: "unsafe-no-fsync", Usage: "do not wait for the disk: faster, and a crash of the machine may lose data",
			},
		},
		Action: r.etcd,
	}
}

func (r *runner) etcd(c *ucli.Context) error {
	cfg := etcdserver.Config{
		Dir:            c.String("data-dir"),
		Name:           c.String("name"),
		ClientURLs:     c.StringSlice("listen-client-urls"),
		PeerURLs:       c.StringSlice("listen-peer-urls"),
		InitialCluster: c.String("initial-cluster"),
		Join:           c.Bool("join"),
		CertFile:       c.String("cert-file"),
		KeyFile:        c.String("key-file"),
		ClientCAFile:   c.String("trusted-ca-file"),
		UnsafeNoFsync:  c.Bool("unsafe-no-fsync"),
		Fast:           c.String("initial-cluster") == "",
	}
	// etcd logs errors although all is well: its log is shown on request only.
	if c.String(cli.FlagLogLevel) == "debug" {
		cfg.Logger = r.zapLogger(c, zap.InfoLevel)
	}
	return etcdserver.Run(c.Context, cfg, func(endpoints []string) {
		urls := strings.Join(endpoints, ",")
		fmt.Fprintf(r.Out, "etcd is ready at %s\n", urls)
		fmt.Fprintf(r.Out, "try: baize network create blue --subnet 10.1.0.0/16 --etcd-endpoints %s\n", urls)
	})
}

// zapLogger is for the etcd server, which logs with zap.
func (r *runner) zapLogger(c *ucli.Context, level zapcore.Level) *zap.Logger {
	ec := zap.NewProductionEncoderConfig()
	ec.EncodeTime = zapcore.RFC3339TimeEncoder
	enc := zapcore.NewConsoleEncoder(ec)
	if c.String(cli.FlagLogFormat) == "json" {
		enc = zapcore.NewJSONEncoder(ec)
	}
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(r.Err)), level))
}
