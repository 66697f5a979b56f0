package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
)

// Exit codes of the commands that talk to a member.
const (
	exitNotOK       = 1   // it ran, and not everything is ok
	exitCannot      = 2   // it could not be run
	exitInterrupted = 130 // Ctrl-C, as shells have it
)

// Globals is what all commands that talk to a member share.
type Globals struct {
	API   string // address of the member's API
	Token string // that the API asks for; empty for none
	Out   io.Writer
	Err   io.Writer

	// terminal tells whether a person watches w; nil looks whether w is a terminal.
	terminal func(w io.Writer) bool
	// slack is what the way to a node and back may take beyond the times that a job allows.
	slack time.Duration
	// patience is how long to wait for a member that rebuilds what it knows of jobs.
	patience time.Duration
}

const defaultSlack = 5 * time.Second

// NewGlobals takes the address from ROOST_API and the token from ROOST_API_TOKEN.
func NewGlobals() *Globals {
	g := &Globals{API: os.Getenv("ROOST_API"), Token: os.Getenv("ROOST_API_TOKEN"), Out: os.Stdout, Err: os.Stderr,
		slack: defaultSlack, patience: defaultPatience}
	if g.API == "" {
		g.API = "http://" + api.DefaultListen
	}
	return g
}

// Bind adds the flags of the globals to a command that talks to a member.
func (g *Globals) Bind(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&g.API, "api", g.API, "address of a member's API; or ROOST_API. ROOST_API_TOKEN holds its token")
}

func (g *Globals) isTerminal(w io.Writer) bool {
	if g.terminal != nil {
		return g.terminal(w)
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (g *Globals) client() (*client.Client, error) {
	c, err := client.New(g.API, g.Token)
	if err != nil {
		return nil, cannot(fmt.Errorf("--api: %w", err))
	}
	return c, nil
}

// ExitError is an error that says with which code the process exits. A nil Err means that everything
// has been said already.
type ExitError struct {
	Code int
	Err  error
}

// Error implements error.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode returns the code for an error of a command, and what is left to say about it, which may be
// nothing.
func ExitCode(err error) (code int, message string) {
	var e *ExitError
	switch {
	case err == nil:
		return 0, ""
	case !errors.As(err, &e):
		return exitCannot, err.Error()
	case e.Err == nil:
		return e.Code, ""
	}
	return e.Code, e.Err.Error()
}

func cannot(err error) error { return &ExitError{Code: exitCannot, Err: err} }

// explain adds to an error of the client what to do about it.
func (g *Globals) explain(err error) error {
	if err == nil {
		return nil
	}
	var unreachable *client.Unreachable
	var problem *client.Problem
	switch {
	case errors.As(err, &unreachable):
		err = fmt.Errorf("%w\nStart a member with \"roost dev\" (all in one, for trying it out) or \"roost serve\", or say with --api or ROOST_API where one is", err)
	case errors.As(err, &problem) && problem.Status == http.StatusUnauthorized && g.Token == "":
		err = fmt.Errorf("%w\nSet ROOST_API_TOKEN to the member's api.token", err)
	case errors.As(err, &problem) && problem.Status == http.StatusUnauthorized:
		err = fmt.Errorf("%w\nROOST_API_TOKEN is set, but is not the member's api.token", err)
	case errors.As(err, &problem) && problem.RetryAfter > 0:
		err = fmt.Errorf("%w\nTry again in %s", err, problem.RetryAfter)
	}
	return cannot(err)
}

// prepare makes a command's own mistakes exit with 2, and leaves printing to the root.
func prepare(cmd *cobra.Command) *cobra.Command {
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.DisableFlagsInUseLine = true
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cannot(fmt.Errorf("%w\nSee \"%s --help\"", err, c.CommandPath()))
	})
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return cannot(fmt.Errorf("%w\nUsage: %s\nSee \"%s --help\"", err, c.UseLine(), c.CommandPath()))
			}
			return nil
		}
	}
	return cmd
}
