//go:build linux

package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/server"
)

// drainStall is how long no node may leave before a drain has failed.
const drainStall = 5 * time.Minute

// drain tells the server by its API to send its nodes to another place, so many in a
// second. Nodes begin to go there; once all have been told the rest says goodbye and leaves
// without going anywhere, which is half of the work. Then the server is ended by SIGTERM.
func drain(ctx context.Context, srv *server.Process, group nodes.Group, rate int, show func(string)) (int, error) {
	away, err := openSink()
	if err != nil {
		return 0, err
	}
	defer away.close()
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	body, err := json.Marshal(map[string]any{"rate_per_s": rate, "to": []string{away.address}})
	if err != nil {
		return 0, err
	}
	if err := call(ctx, &client, http.MethodPost, srv.API+"/v1/members/m1/drain", body, nil); err != nil {
		return 0, fmt.Errorf("drain: %w", err)
	}
	if err := told(ctx, srv, group, away, show); err != nil {
		return 0, err
	}
	if err := group.Stop(); err != nil {
		return 0, err
	}
	if err := drained(ctx, srv, &client, show); err != nil {
		return 0, err
	}
	stop, cancel := context.WithTimeout(ctx, drainStall)
	defer cancel()
	if err := srv.Stop(stop); err != nil {
		return 0, err
	}
	return 1, nil
}

// told waits until every node has been told to go.
func told(ctx context.Context, srv *server.Process, group nodes.Group, away *sink, show func(string)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last, lastAt, shown := uint64(0), time.Now(), time.Now()
	for {
		s := group.Stats()
		if s.GoAways >= uint64(s.Nodes) {
			show(fmt.Sprintf("%d of %d nodes were told to go, %d have gone to the other place", s.GoAways, s.Nodes, s.Dead))
			return nil
		}
		if err := errors.Join(srv.Ended(), away.failed()); err != nil {
			return err
		}
		if s.GoAways != last {
			last, lastAt = s.GoAways, time.Now()
		}
		if time.Since(lastAt) > drainStall {
			return fmt.Errorf("drain: %d of %d nodes were told to go, and no more: %s", s.GoAways, s.Nodes, s.LastError)
		}
		if time.Since(shown) > 5*time.Second {
			shown = time.Now()
			show(fmt.Sprintf("%d of %d nodes were told to go, %d have gone to the other place", s.GoAways, s.Nodes, s.Dead))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// drained waits until the server says that no node and no partition is left.
func drained(ctx context.Context, srv *server.Process, client *http.Client, show func(string)) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	last, lastAt, shown := -1, time.Now(), time.Now()
	for {
		var list struct {
			Members []struct {
				Nodes int `json:"nodes"`
				Drain *struct {
					EndedMs int64 `json:"ended_ms"`
				} `json:"drain"`
			} `json:"members"`
		}
		err := call(ctx, client, http.MethodGet, srv.API+"/v1/members", nil, &list)
		nodes := -1
		if err == nil && len(list.Members) == 1 {
			m := &list.Members[0]
			if m.Drain != nil && m.Drain.EndedMs != 0 {
				return nil
			}
			nodes = m.Nodes
		}
		if e := errors.Join(srv.Ended(), ctx.Err()); e != nil {
			return e
		}
		if nodes != last && nodes >= 0 {
			last, lastAt = nodes, time.Now()
		}
		if time.Since(lastAt) > drainStall {
			return errors.Join(fmt.Errorf("drain: the server has %d nodes left, and says nothing new", last), err)
		}
		if time.Since(shown) > 5*time.Second {
			shown = time.Now()
			show(fmt.Sprintf("the server has %d nodes left", last))
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// call asks the server's API; out may be nil.
func call(ctx context.Context, client *http.Client, method, url string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, said)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(said, out)
}
