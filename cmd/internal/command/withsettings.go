package command

import (
	"os"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/settings"
)

// withSettingsCommand runs a command with the settings of a file, as baize.service
// runs the agent. The packages use it: a shell would execute what is in the file.
func (r *runner) withSettingsCommand() *ucli.Command {
	return &ucli.Command{
		Name: "with-settings", Usage: "run a command with the settings of a file", Hidden: true,
		ArgsUsage: "FILE COMMAND...", Category: takesCommand,
		Action: func(c *ucli.Context) error {
			variables, err := settings.ReadEnvironment(c.Args().First())
			if err != nil {
				return err
			}
			for _, v := range variables {
				if err := os.Setenv(v.Name, v.Value); err != nil {
					return err
				}
			}
			if code := Run(c.Context, c.Args().Tail(), Streams{r.In, r.Out, r.Err}); code != cli.ExitOK {
				return &cli.ExitStatus{Code: code}
			}
			return nil
		},
	}
}
