package roost_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	roost "github.com/roost-server/roost/sdk/go"

	"github.com/roost-server/roost/protocol"
)

func Example() {
	addr, done := startMember(exampleJob{"job-1", "greet", map[string]string{"name": "Ada"}})

	client, err := roost.New(roost.Config{
		Servers: []string{addr},
		NodeID:  "probe-1",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client.Handle("greet", func(_ context.Context, job roost.Job) (roost.Result, error) {
		var args struct {
			Name string `msgpack:"name"`
		}
		if err := job.Bind(&args); err != nil {
			return roost.Result{}, err
		}
		return roost.OK("hello " + args.Name), nil
	})
	runUntil(done, client) // in a program: client.Run(ctx)

	// Output:
	// job-1: ok hello Ada
}

func ExampleClient_Handle() {
	addr, done := startMember(
		exampleJob{"job-1", "check", 443},
		exampleJob{"job-2", "check", 80},
		exampleJob{"job-3", "check", 22},
		exampleJob{"job-4", "check", -1},
		exampleJob{"job-5", "reboot", nil},
	)
	client, err := roost.New(roost.Config{Servers: []string{addr}, NodeID: "probe-1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	client.Handle("check", func(_ context.Context, job roost.Job) (roost.Result, error) {
		var port int
		if err := job.Bind(&port); err != nil {
			return roost.Result{}, err
		}
		switch port {
		case 443:
			return roost.OK(map[string]bool{"open": true}), nil // it ran, and its check holds
		case 80:
			return roost.Fail("port is closed", nil), nil // it ran, and its check does not hold
		case 22:
			return roost.Result{}, roost.Refused("port %d is not ours to probe", port) // it may not run
		default:
			return roost.Result{}, errors.New("no such port") // failed, too
		}
	})
	runUntil(done, client)

	// Output:
	// job-1: ok map[open:true]
	// job-2: failed <nil> port is closed
	// job-3: refused <nil> port 22 is not ours to probe
	// job-4: failed <nil> no such port
	// job-5: refused <nil> unknown kind "reboot"; this node offers: check
}

func ExampleJob_Progress() {
	addr, done := startMember(exampleJob{"job-1", "scan", nil})
	client, err := roost.New(roost.Config{Servers: []string{addr}, NodeID: "probe-1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	client.Handle("scan", func(ctx context.Context, job roost.Job) (roost.Result, error) {
		for pct := 50; pct <= 100; pct += 50 {
			_ = job.Progress(ctx, pct) // nobody may be listening
		}
		return roost.OK(nil), nil
	})
	runUntil(done, client)

	// Output:
	// job-1: progress 50
	// job-1: progress 100
	// job-1: ok <nil>
}

func ExampleOpenFileOutbox() {
	dir, err := os.MkdirTemp("", "roost")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	outbox, err := roost.OpenFileOutbox(filepath.Join(dir, "outbox"), roost.FileOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer outbox.Close() // after Run has returned

	addr, done := startMember(exampleJob{"job-1", "noop", nil})
	client, err := roost.New(roost.Config{
		Servers: []string{addr}, NodeID: "probe-1", Outbox: outbox,
		OnEvent: func(e roost.Event) {
			if e, ok := e.(roost.ResultAcked); ok {
				fmt.Println("recorded:", e.JobID)
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client.Handle("noop", func(context.Context, roost.Job) (roost.Result, error) { return roost.OK(nil), nil })
	runUntil(done, client)
	held, err := outbox.All()
	fmt.Println("held:", len(held), err)

	// Output:
	// job-1: ok <nil>
	// recorded: job-1
	// held: 0 <nil>
}

func ExampleConfig_mistake() {
	_, err := roost.New(roost.Config{
		Servers: []string{"localhost:7400"}, NodeID: "probe-1",
		Attributes: protocol.Attributes{Country: "Australia"},
	})
	fmt.Println(err)

	// Output:
	// roost: Config.Attributes country has 9 bytes; at most 3 are allowed
}
